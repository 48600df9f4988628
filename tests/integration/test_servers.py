"""The harness itself: what the other tests rely on when they kill, pause and restart a server."""

from __future__ import annotations

import pytest
import redis

from tests.conftest import FakeRedis
from tests.servers import RedisServer

pytestmark = pytest.mark.redis


def test_a_killed_server_comes_back_with_what_it_knew(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("k", "v")
    redis_server.restart()
    with redis_server.client() as client:
        assert client.get("k") == b"v"


def test_an_emptied_server_comes_back_at_the_same_address(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("k", "v")
    redis_server.restart(empty=True)
    with redis_server.client() as client:
        assert client.get("k") is None


def test_a_paused_server_accepts_and_does_not_answer(redis_server: RedisServer) -> None:
    redis_server.pause()
    with (
        redis.Redis.from_url(redis_server.url, socket_timeout=0.2) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    redis_server.resume()
    with redis_server.client() as client:
        assert client.ping()


def test_a_server_takes_options_and_a_port(redis_servers) -> None:
    server = redis_servers("--maxmemory", "4mb", tcp=True)
    assert server.url.startswith("redis://127.0.0.1:")
    with server.client() as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(4 * 1024**2)}


async def test_both_clients_of_the_fake_see_one_server(fake_redis: FakeRedis) -> None:
    await fake_redis.aio.set("k", "v")
    assert fake_redis.sync.get("k") == b"v"
    assert fake_redis.sync.eval("return ARGV[1]", 0, "lua") == b"lua"
