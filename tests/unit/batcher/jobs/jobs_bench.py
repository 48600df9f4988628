"""Jobs, and workers that run them, on a fake Redis and fake queues of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from batcher.connection.outage import Outage
from batcher.jobs.models import JobModels, OpenQueues
from batcher.jobs.records import Claimed, JobRecord
from batcher.jobs.rq_queue import JobQueue, RqWorker
from batcher.jobs.store import JobStore
from batcher.jobs.upload import Submission
from batcher.jobs.worker import JobsWorker
from batcher.settings import JobSettings
from tests.conftest import encoded
from tests.unit.fakes import FakeCache, FakeHub

SETTINGS = JobSettings(name="unit", job_ttl_s=600, job_in_flight=64)
P = "{millrace-jobs:unit}"


class Bench:
    """A store, RQ's queue, and the fake queues of models."""

    def __init__(self, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.store = JobStore(client, "unit", 600)
        self.queue = JobQueue(client, SETTINGS)
        self.hubs: dict[str, FakeHub] = {}
        self.caches: list[FakeCache] = []
        self.outage = Outage()
        self._workers = 0
        monkeypatch.setattr("batcher.jobs.models.connect_shards", lambda *_, **__: [client])

    def job(self, job_id: str, texts: int = 3, client: str = "one", model: str = "") -> str:
        upload = self.store.upload(job_id, 256, Submission(client=client, model=model))
        for at in range(0, texts, 256):
            upload.add(encoded(f"{job_id[:4]} {number}" for number in range(at, min(at + 256, texts))))
        assert self.store.create(upload, "d", 2000).outcome == "created"
        self.queue.enqueue(job_id)
        return job_id

    def hub(self, model: str = "") -> FakeHub:
        return self.hubs.setdefault(model, FakeHub(lane="bulk"))

    def connect(self, name: str) -> tuple[FakeHub, FakeCache]:
        self.caches.append(FakeCache())
        return self.hub(name), self.caches[-1]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[JobsWorker]:
        self._workers += 1
        rq = RqWorker(self.queue, f"w{self._workers}")
        models = JobModels(SETTINGS)
        models.queues = OpenQueues(self.connect)
        made = JobsWorker(self.store, self.queue, rq, models, SETTINGS, self.outage)
        task = asyncio.create_task(made.work())
        try:
            yield made
        finally:
            made.stop()
            await task
            assert not any(hub.running for hub in self.hubs.values())
            assert all(cache.closed for cache in self.caches)

    def claims(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """What is asked for in each claim from now on."""
        claim, asked = self.store.claim, list[tuple[Any, ...]]()

        def recorded(*args: Any) -> Claimed:
            asked.append(args)
            return claim(*args)

        monkeypatch.setattr(self.store, "claim", recorded)
        return asked

    def record(self, job_id: str) -> JobRecord:
        found = self.store.record(job_id)
        assert found is not None
        return found

    def statuses(self, *ids: str) -> set[str]:
        return {self.record(job_id).status for job_id in ids}

    async def ended(self, *ids: str, status: str = "finished") -> None:
        await until(lambda: self.statuses(*ids) == {status})

    def rq_job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.client, serializer=JSONSerializer)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110  # what another task does to Redis sets no event
            await asyncio.sleep(0.01)


def number(value: int) -> str:
    return f"{value:032x}"
