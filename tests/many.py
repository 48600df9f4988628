"""Workers with several models and API processes over one fake Redis, as the product starts them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fakeredis
import httpx
import pytest

from api.main import create_app
from api.settings import ApiSettings
from batcher.jobs.models import Connection, JobModels
from batcher.jobs.runner import JobRun, bounds_of
from batcher.jobs.store import JobStore
from batcher.settings import WorkerSettings
from batcher.worker.building import LoadedModels
from model_store.stub import StubClassifier
from tests.operators import SETTING, OperatorAuth
from tests.service import pause_s
from tests.shards import until
from tests.threads import run_worker

# Where the product opens clients.
_SYNC = (
    "batcher.worker.building",
    "batcher.worker.cache_writer",
    "batcher.jobs.store",
    "batcher.jobs.rq_queue",
    "api.admin.service",
    "batcher.publishing.publications",
)
_ASYNC = ("batcher.hub.hub", "batcher.hub.shared_cache")


class Many:
    """Ends what it has started in the opposite order. Use it as an asynchronous context."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shards: int = 1) -> None:
        self._urls = [f"redis://shard-{number}" for number in range(shards)]
        self.servers = [fakeredis.FakeServer(version=(7,)) for _ in range(shards)]
        self._stack = contextlib.AsyncExitStack()
        if shards > 1:
            monkeypatch.setenv("MILLRACE_REDIS_URL", " ".join(self._urls))
        for module in _SYNC:
            monkeypatch.setattr(f"{module}.connect", lambda url, **_: self.client(self._shard(url)))
        for module in _ASYNC:
            monkeypatch.setattr(f"{module}.connect_async", lambda url, **_: self._aio(self._shard(url)))
        self._closed = False

    async def __aenter__(self) -> Many:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closed = True
        await self._stack.aclose()

    def client(self, shard: int = 0) -> fakeredis.FakeRedis:
        client = fakeredis.FakeRedis(server=self.servers[shard])
        self._stack.callback(client.close)
        return client

    def _aio(self, shard: int) -> fakeredis.FakeAsyncRedis:
        return fakeredis.FakeAsyncRedis(server=self.servers[shard])

    def _shard(self, url: str) -> int:
        """The number of the shard with this URL; the only one has any."""
        return self._urls.index(url) if len(self._urls) > 1 else 0

    def worker(self, model: str, **settings: Any) -> LoadedModels:
        """A worker with these models, in a thread."""
        served = LoadedModels(WorkerSettings(model=model, **settings))
        served.worker.warm_up()
        self._stack.callback(served.close)
        run_worker(served.worker, self._stack)
        return served

    async def api(self, **settings: Any) -> httpx.AsyncClient:
        app = create_app(ApiSettings(**{"admin_keys": SETTING, "default_budget_s": 30, **settings}))
        await self._stack.enter_async_context(app.app.router.lifespan_context(app.app))
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=60, auth=OperatorAuth()
        )
        return await self._stack.enter_async_context(client)

    def job_store(self) -> JobStore:
        settings = ApiSettings()
        return JobStore(self.client(), settings.name, settings.job_ttl_s)

    async def run_job(self, job_id: str) -> str:
        """One attempt at a job. Returns the job's status, or raises Interrupted."""
        settings, store = ApiSettings(), self.job_store()
        models = JobModels(settings)
        await asyncio.to_thread(models.read)
        attempt = await asyncio.to_thread(store.start, job_id)
        looking = asyncio.create_task(self._look(models))
        try:
            connection = Connection(models, attempt.queue, attempt.account, lambda: self._closed)
            return await JobRun(attempt, store, settings, connection, bounds_of(settings)).run()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await models.close()

    async def _look(self, models: JobModels) -> None:
        while True:
            await asyncio.sleep(0.05)
            await asyncio.to_thread(models.read)


@dataclass
class Replicas:
    """Two APIs and two workers, which serve stub and topics."""

    apis: list[httpx.AsyncClient]

    async def admin(self, what: str, **body: Any) -> httpx.Response:
        return await self.apis[0].post(f"/admin/models/{what}", json=body)

    async def publish(self, reference: str, model: str = "") -> int:
        """Publishes a revision, and returns its number once both workers serve it."""
        asked = await self.admin("publish", reference=reference, model=model)
        assert asked.status_code == 200, asked.text
        name, number = asked.json()["model"], asked.json()["number"]

        async def loaded() -> bool:
            state = (await self.apis[0].get("/admin/models")).json()["models"][name]
            return bool(state["revisions"][str(number)]["workers"] == 2)

        await until_async(loaded, f"publication {number} to be loaded")
        return int(number)

    async def move(self, **body: Any) -> dict[str, Any]:
        moved = await self.admin("move", **body)
        assert moved.status_code == 200, moved.text
        assert moved.json()["unconfirmed"] == []
        return dict(moved.json())


async def start_replicas(many: Many) -> Replicas:
    """Returns once all of it is ready."""
    for _ in range(2):
        many.worker("stub,topics=stub@t")
    made = Replicas([await many.api() for _ in range(2)])
    for api in made.apis:
        await ready(api, "stub", "topics")
    return made


async def ready(client: httpx.AsyncClient, *names: str) -> None:
    """Returns once all of these models are ready."""
    states: dict[str, str] = {}

    async def look() -> bool:
        found = (await client.get("/models")).json()["models"]
        states.update({one["name"]: one["state"] for one in found})
        return all(states.get(name) == "ready" for name in names)

    await until_async(look, f"{names} to be ready, of {states}")


async def until_async(true: Callable[[], Any], what: str) -> None:
    found, began = False, time.monotonic()

    async def look() -> None:
        nonlocal found
        while not found:
            found = await true()
            await asyncio.sleep(pause_s(time.monotonic() - began))

    looking = asyncio.create_task(look())
    try:
        await until(lambda: found or looking.done(), what)
        await looking
    finally:
        looking.cancel()


def publish_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets processes look for revisions more often."""
    monkeypatch.setattr("batcher.hub.hub.SWEEP_EVERY_S", 0.05)
    monkeypatch.setattr("batcher.worker.building.LOOK_S", 0.05)
    monkeypatch.setattr("batcher.worker.building.DROP_S", 1.0)
    monkeypatch.setattr("api.admin.publications.SWEPT_S", 0.2)


def model_header(name: str, variant: str) -> str:
    """The X-Model of answers of a stub."""
    return f"{name}@{StubClassifier(variant=variant).info.revision[:12]}"
