"""One attempt at a job, with a fake hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from batcher.jobs.records import JobRecord
from batcher.jobs.store import JobStore
from batcher.settings import JobSettings
from tests.conftest import encoded
from tests.unit.fakes import FakeCache, FakeHub, prediction, run_attempt

JOB = "a" * 32
WORDS = [f"text {number}" for number in range(50)]


@dataclass
class Bench:
    """A store with one job in it, and the means to run it."""

    store: JobStore
    hub: FakeHub = field(default_factory=lambda: FakeHub(lane="bulk"))
    cache: FakeCache = field(default_factory=FakeCache)

    def job(self, texts: Sequence[str | None], chunk_texts: int = 4) -> None:
        upload = self.store.upload(JOB, chunk_texts)
        for at in range(0, len(texts), chunk_texts):
            upload.add(encoded(texts[at : at + chunk_texts]))
        assert self.store.create(upload, "digest", 10).outcome == "created"

    def run(self, should_stop: Callable[[], bool] = lambda: False, **settings: Any) -> str:
        attempt = self.store.start(JOB)
        chosen = JobSettings(**settings)
        return asyncio.run(run_attempt(attempt, self.store, chosen, self.hub, self.cache, should_stop))

    @property
    def record(self) -> JobRecord:
        found = self.store.record(JOB)
        assert found is not None
        return found

    def results(self) -> list[Any]:
        record = self.record
        return [json.loads(line) for lines in self.store.output(record, 0, record.total) for line in lines]

    def asked(self) -> list[str]:
        return [text for call in self.hub.asked for text in call]


def answers(texts: Sequence[str]) -> list[Any]:
    return [json.loads(prediction(text).fragment) for text in texts]
