"""Finding 9: Redis fails over and leaves the connections to the demoted server open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis

from batcher.connection.clients import connect, connect_async
from batcher.connection.outage import REDIS_ERRORS
from batcher.connection.pipeline import Pipeline
from batcher.core.snapshot import Sweep
from batcher.jobs.store import JobStore
from tests.conftest import encoded
from tests.fakes import heartbeat_queue
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.service import wait_until

pytestmark = pytest.mark.redis


def demote(server: RedisServer, port: int, *config: tuple[str, str]) -> None:
    """Makes it a replica. Who is connected stays connected."""
    with server.client() as admin:
        for name, value in config:
            admin.config_set(name, value)
        admin.replicaof("127.0.0.1", port)


@pytest.fixture
def old(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    return redis_servers(tcp=True)


@pytest.fixture
def new(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    return redis_servers(tcp=True)


@pytest.fixture
def name(old: RedisServer) -> Iterator[Proxy]:
    """What clients are answered: it leads to `old` at first."""
    made = Proxy(old.url)
    yield made
    made.close()


class User:
    """Writes to Redis each time it is called, over a connection that it keeps."""

    def __init__(self, kind: str, url: str) -> None:
        self._aio = connect_async(url, timeout_s=2, retries=1)
        self._sync = connect(url, timeout_s=2, retries=0)
        self._pipeline = Pipeline(self._aio, "t", retries=1)
        self._worker = heartbeat_queue(self._sync, "t", "w", lease_ms=2000, max_attempts=3, result_ms=1000)
        self._store = JobStore(self._sync, "t", 60)
        self._write: Callable[[], Awaitable[object]] = getattr(self, f"_{kind}")

    async def __call__(self) -> object:
        return await self._write()

    async def _api(self) -> object:
        return await self._pipeline.run(Sweep("api", 3))

    async def _plain(self) -> object:
        return await self._pipeline.execute("SET", "a", 1)

    async def _heartbeat(self) -> object:
        return self._worker.heartbeat([], {"state": "idle"}, {"revision": "A"}, 5000)

    async def _jobs(self) -> object:
        upload = self._store.upload("a" * 32)
        upload.add(encoded(["x"]))
        return self._store.create(upload, "d", 10)

    async def close(self) -> None:
        await self._pipeline.close()
        self._sync.close()


KINDS = ("api", "plain", "heartbeat", "jobs")


@pytest.fixture
async def users() -> AsyncIterator[Callable[[str, str], User]]:
    made: list[User] = []

    def make(kind: str, url: str) -> User:
        made.append(User(kind, url))
        return made[-1]

    yield make
    for user in made:
        await user.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["READONLY", "MASTERDOWN", "NOREPLICAS"])
async def test_finding_09_who_was_connected_to_a_demoted_redis_finds_the_next_one(
    old: RedisServer,
    new: RedisServer,
    name: Proxy,
    users: Callable[[str, str], User],
    kind: str,
    how: str,
) -> None:
    use = users(kind, name.url)
    await use()
    if how == "READONLY":
        demote(old, new.port)
    elif how == "NOREPLICAS":
        with old.client() as admin:
            admin.config_set("min-replicas-to-write", 1)
    else:
        demote(old, 1, ("replica-serve-stale-data", "no"))
    with pytest.raises(REDIS_ERRORS) as caught:
        await use()
    assert isinstance(caught.value, redis.exceptions.ConnectionError), "it counts as lost"
    await asyncio.to_thread(wait_until, lambda: name.connections == 0, "the connections to be closed")
    name.point(new.url)
    for _ in range(3):
        await use()
    assert name.connections == 1


async def test_finding_09_a_cluster_that_is_down_counts_as_lost(
    redis_servers: Callable[..., RedisServer],
    new: RedisServer,
    name: Proxy,
    users: Callable[[str, str], User],
) -> None:
    without_slots = redis_servers("--cluster-enabled", "yes", tcp=True)
    for kind in KINDS:
        use = users(kind, name.url)
        name.point(without_slots.url)
        with pytest.raises(redis.exceptions.ConnectionError):
            await use()
        name.point(new.url)
        await use()


@pytest.mark.parametrize("make", ["single", "sentinel"])
def test_finding_27_a_reply_that_is_too_late_is_not_the_reply_to_the_next_command(
    make: str, old: RedisServer, name: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "127.0.0.1", name.port
    monkeypatch.setattr(redis.Sentinel, "discover_master", lambda *_: address)
    url = name.url if make == "single" else "redis+sentinel://admin:admin@127.0.0.1:1/service"
    with connect(url, timeout_s=1, retries=0) as client:
        assert client.echo("before") == b"before"
        name.slow(1.5)
        with pytest.raises(redis.exceptions.TimeoutError):
            client.echo("first")
        name.slow(0)
        assert client.echo("second") == b"second"
