"""A running API with its console, on a fake Redis. No worker runs: the tests do its work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
import redis

from api.admin.service import ConsoleStores
from api.admin.traces import Traces
from api.jobs.service import JobBackend
from api.main import create_app
from api.parts import Backends
from api.predict.handler import PredictMiddleware
from api.settings import ApiSettings
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from batcher.worker.heartbeat import HeartbeatQueue
from tests.conftest import FakeRedis
from tests.fakes import heartbeat_queue
from tests.unit.fakes import FakeCache, FakeHub

ADMIN = {"authorization": "Bearer all"}
READER = {"authorization": "Bearer look"}
P = "{millrace:2:default}"


def keys(**names: str) -> str:
    """The setting for keys: `web="one"`."""
    return ",".join(f"{name}:{sha256(key.encode()).hexdigest()}" for name, key in names.items())


@dataclass
class AdminApi:
    """A running API with operators `ops` (ADMIN) and `eyes` (READER), and what is behind it."""

    app: PredictMiddleware
    client: httpx.AsyncClient
    redis: redis.Redis
    hub: FakeHub
    cache: FakeCache
    store: JobStore
    queue: JobQueue
    stores: ConsoleStores

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.client.get(f"/admin{path}", params=params, headers=ADMIN)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/admin{path}", json=body, headers=ADMIN)

    def worker(self, name: str = "w1") -> HeartbeatQueue:
        return heartbeat_queue(self.redis, "default", name, lease_ms=2000, max_attempts=1, result_ms=60_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions that no process answers end soon."""
    monkeypatch.setattr(Traces, "open_s", 0.1)


Start = Callable[..., Awaitable[AdminApi]]


@asynccontextmanager
async def administering(fake: FakeRedis, hub: FakeHub, settings: ApiSettings) -> AsyncIterator[AdminApi]:
    cache = FakeCache()
    store, queue = JobStore(fake.sync, settings.name, settings.job_ttl_s), JobQueue(fake.sync, settings)
    jobs = JobBackend(store, queue)
    stores = ConsoleStores([fake.sync], jobs, settings, None if settings.cache_here else fake.sync)
    app = create_app(settings, Backends(hub, cache, jobs, stores))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 1234))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield AdminApi(app, client, fake.sync, hub, cache, store, queue, stores)


@pytest.fixture
async def start(fake_redis: FakeRedis) -> AsyncIterator[Start]:
    """Starts an API with the given settings: `await start(separate_clients=True)`."""
    contexts = []

    async def make(hub: FakeHub | None = None, **settings: Any) -> AdminApi:
        given = {"admin_keys": keys(ops="all"), "admin_read_keys": keys(eyes="look"), **settings}
        contexts.append(administering(fake_redis, hub or FakeHub(), ApiSettings(**given)))
        return await contexts[-1].__aenter__()

    yield make
    for context in contexts:
        await context.__aexit__(None, None, None)


@pytest.fixture
async def api(start: Start) -> AdminApi:
    return await start()
