"""A running API whose jobs are in a fake Redis. No worker runs: the tests do its work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import redis

from api.jobs.service import JobBackend
from api.jobs.watcher import JobWatch
from api.lifecycle import Lifecycle
from api.main import assemble
from api.parts import Backends, Capability, Parts
from api.predict.handler import PredictMiddleware
from api.settings import ApiSettings
from batcher.jobs.records import Attempt, Counts
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from tests.conftest import FakeRedis
from tests.unit.fakes import FakeCache, FakeHub

NDJSON = {"content-type": "application/x-ndjson"}
CSV = {"content-type": "text/csv"}
POSITIVE = [{"label": "NEGATIVE", "score": 0.25}, {"label": "POSITIVE", "score": 0.75}]
FAILURE = {"error": {"code": "inference_failed", "detail": "the model failed on this text"}}


@dataclass
class JobsApi:
    """A running API, and the job store behind it, through which tests do the work of a worker."""

    app: PredictMiddleware
    client: httpx.AsyncClient
    redis: redis.Redis
    store: JobStore
    queue: JobQueue
    lifecycle: Lifecycle
    watch: JobWatch

    async def all_wait(self, requests: int) -> None:
        """Returns once so many requests wait for changes."""
        async with asyncio.timeout(60):
            while len(self.watch._waiting) != requests:  # noqa: ASYNC110  # the service sets no event for tests
                await asyncio.sleep(0.005)

    async def submit(self, *texts: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/jobs", json={"text": texts}, headers=names)

    async def new(self, *texts: str) -> str:
        """The id of a new job."""
        answer = await self.submit(*(texts or ("a", "b", "c")))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.client.get(f"/jobs{path}", params=params)

    def start(self, job_id: str) -> Attempt:
        return self.store.start(job_id)

    def finish(self, attempt: Attempt, *results: Any) -> None:
        lines = b"\n".join(json.dumps(result, separators=(",", ":")).encode() for result in results)
        failed = sum(isinstance(result, dict) for result in results)
        assert (
            self.store.append(attempt, 0, [lines], counts=Counts(failed), rate=2.0, model="m@r") == "running"
        )
        self.store.end(attempt, "finished")

    def held(self) -> list[bytes]:
        """The keys that hold jobs and files."""
        counts = b":totals", b":usage:"
        keys = (key for key in self.redis.scan_iter() if not any(part in key for part in counts))
        return [key for key in keys if key != b"rq:queues"]


Start = Callable[..., Awaitable[JobsApi]]


@asynccontextmanager
async def serving(
    fake: FakeRedis,
    settings: ApiSettings,
    hub: FakeHub | None = None,
    without: Collection[Capability] = (),
) -> AsyncIterator[JobsApi]:
    store, queue = JobStore(fake.sync, settings.name, settings.job_ttl_s), JobQueue(fake.sync, settings)
    backends = Backends(hub or FakeHub(), FakeCache(), JobBackend(store, queue))
    parts = Parts(settings, backends, without=without)
    app = assemble(parts)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield JobsApi(app, client, fake.sync, store, queue, parts.lifecycle, parts.jobs.watch)
