"""One attempt at a job with a pretended hub: order, bounds, patience, and where the next one continues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)
from batcher.job_record import JobRecord
from batcher.job_run import Interrupted, Outcome, run_job
from batcher.job_store import JobStore
from batcher.messages import NO_SNAPSHOT, Lane, ModelRecord, Prediction, Snapshot, entry_id
from batcher.settings import JobSettings
from tests.conftest import FakeRedis

REVISION = "r" * 64
SNAPSHOT = Snapshot(
    ModelRecord("stub", REVISION, ("A", "B"), 512, "stub", "f32"),
    *[
        getattr(NO_SNAPSHOT, name)
        for name in ("workers", "interactive", "bulk", "solo", "in_flight", "recovered")
    ],
)
JOB = "a" * 32


def prediction(text: str) -> Prediction:
    labels = [{"label": text, "score": 1.0}]
    return Prediction(json.dumps(labels).encode(), REVISION, 3)


@dataclass
class Hub:
    """Answers from `answer`, after `gate` if there is one; counts what is in flight."""

    answer: Callable[[str], Outcome] = prediction
    refusals: list[Exception] = field(default_factory=list)
    snapshot: Snapshot = SNAPSHOT
    pause_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    cancelled: int = 0
    running: bool = False

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        assert self.in_flight == 0, "stopped under its callers"
        self.running = False

    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = "interactive",
        trace: str = "",
    ) -> list[Outcome]:
        assert lane == "bulk"
        assert list(ids) == [entry_id(text) for text in texts]
        if self.refusals:
            raise self.refusals.pop()
        self.in_flight += len(texts)
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.pause_s)
            self.asked += texts
            return [self.answer(text) for text in texts]
        except asyncio.CancelledError:
            self.cancelled += len(texts)
            raise
        finally:
            self.in_flight -= len(texts)


@dataclass
class Cache:
    """Knows what is in `held`."""

    held: set[str] = field(default_factory=set)
    closed: bool = False

    async def get(self, revision: str, ids: Sequence[str]) -> list[tuple[Prediction, float] | None]:
        assert revision == REVISION
        known = {entry_id(text): text for text in self.held}
        return [(prediction(known[entry]), 1.0) if entry in known else None for entry in ids]

    async def close(self) -> None:
        self.closed = True


@dataclass
class Bench:
    """A store with one job in it, and the means to run it."""

    store: JobStore
    hub: Hub = field(default_factory=Hub)
    cache: Cache = field(default_factory=Cache)

    def job(self, texts: Sequence[str | None], chunk_texts: int = 4) -> None:
        upload = self.store.upload(JOB, chunk_texts)
        for at in range(0, len(texts), chunk_texts):
            upload.add(texts[at : at + chunk_texts])
        assert self.store.create(upload, "digest", 10).outcome == "created"

    def run(self, should_stop: Callable[[], bool] = lambda: False, **settings: Any) -> str:
        return run_job(JOB, self.store, lambda: (self.hub, self.cache), JobSettings(**settings), should_stop)

    @property
    def record(self) -> JobRecord:
        found = self.store.record(JOB)
        assert found is not None
        return found

    def results(self) -> list[Any]:
        record = self.record
        return [json.loads(line) for lines in self.store.output(record, 0, record.total) for line in lines]

    def labels(self) -> list[str]:
        return [result[0]["label"] for result in self.results()]


@pytest.fixture
def bench(fake_redis: FakeRedis) -> Bench:
    return Bench(JobStore(fake_redis.sync, "unit", 60))


WORDS = [f"text {number}" for number in range(50)]


def test_every_text_gets_its_result_in_order(bench: Bench) -> None:
    bench.job(WORDS)
    assert bench.run() == "finished"
    assert bench.labels() == WORDS
    record = bench.record
    assert (record.done, record.failed, record.total, record.attempt) == (50, 0, 50, 1)
    assert record.model == f"stub@{REVISION[:12]}"
    assert record.started_ms is not None
    assert record.finished_ms is not None
    assert record.created_ms <= record.started_ms <= record.finished_ms
    assert not bench.hub.running
    assert bench.cache.closed


def test_a_text_is_asked_for_once_a_chunk_however_often_it_stands_there(bench: Bench) -> None:
    bench.job(["same"] * 8)
    bench.run()
    assert bench.hub.asked == ["same", "same"]
    assert bench.labels() == ["same"] * 8


def test_what_the_cache_knows_is_not_asked_for(bench: Bench) -> None:
    bench.cache.held = set(WORDS[:49])
    bench.job(WORDS)
    bench.run()
    assert bench.hub.asked == WORDS[49:]
    assert bench.labels() == WORDS


def test_no_more_is_in_flight_than_the_setting_says(bench: Bench) -> None:
    bench.hub.pause_s = 0.001
    bench.job(WORDS * 4, chunk_texts=16)
    bench.run(job_in_flight=32)
    assert 16 <= bench.hub.most <= 32


def test_fewer_in_flight_than_a_request_would_hold(bench: Bench) -> None:
    bench.hub.pause_s = 0.001
    bench.job(WORDS, chunk_texts=16)
    bench.run(job_in_flight=5)
    assert bench.hub.most == 5
    assert bench.labels() == WORDS


def test_one_bad_text_is_an_entry_with_an_error_in_its_place(bench: Bench) -> None:
    errors: dict[str, Outcome] = {
        "bad": EntryFailed("the model failed on this text"),
        "worse": EntryPoisoned("this text ended 3 workers"),
    }
    bench.hub.answer = lambda text: errors.get(text) or prediction(text)
    bench.job(["a", "bad", None, "worse", "b"])
    assert bench.run() == "finished"
    results = bench.results()
    assert [result[0]["label"] for result in (results[0], results[4])] == ["a", "b"]
    codes = [results[at]["error"]["code"] for at in (1, 2, 3)]
    assert codes == ["inference_failed", "text_too_long", "poison"]
    assert (bench.record.failed, bench.record.status) == (3, "finished")


@pytest.mark.parametrize(
    "refusal",
    [
        QueueFull("full", retry_after_s=0.01),
        NoWorker("none", retry_after_s=0.01),
        QueueUnavailable("away", retry_after_s=0.01),
        BudgetExceeded("over", retry_after_s=0.01),
    ],
)
def test_what_a_client_would_be_refused_for_a_job_waits_for(bench: Bench, refusal: Exception) -> None:
    bench.hub.refusals = [refusal] * 5
    bench.job(WORDS)
    assert bench.run() == "finished"
    assert bench.labels() == WORDS


def test_a_job_cancelled_while_it_runs_asks_for_nothing_more(bench: Bench) -> None:
    bench.job(WORDS * 100, chunk_texts=4)
    bench.hub.pause_s = 0.2
    seen = 0

    def cancel_soon() -> bool:
        nonlocal seen
        seen += 1
        if seen == 2:
            bench.store.cancel(JOB)
        return False

    assert bench.run(cancel_soon, job_in_flight=8) == "cancelled"
    assert bench.hub.cancelled > 0, "what was in flight was taken back"
    assert bench.record.status == "cancelled"
    assert bench.record.done < bench.record.total


def test_the_next_attempt_continues_where_the_last_was_interrupted(bench: Bench) -> None:
    bench.job(WORDS * 20, chunk_texts=4)
    bench.hub.pause_s = 0.02
    with pytest.raises(Interrupted):
        bench.run(lambda: bench.record.done > 0, job_in_flight=8)
    done = bench.record.done
    assert 0 < done < 1000
    assert bench.record.status == "running"
    bench.hub.asked.clear()
    bench.hub.pause_s = 0.0
    assert bench.run() == "finished"
    assert len(bench.hub.asked) == 1000 - done, "nothing is classified twice"
    assert bench.labels() == WORDS * 20


def test_an_older_attempt_ends_when_a_newer_has_begun(bench: Bench) -> None:
    bench.job(WORDS * 20, chunk_texts=4)
    bench.hub.pause_s = 0.02
    began = False

    def begin_another() -> bool:
        nonlocal began
        if not began:
            began = True
            assert bench.store.start(JOB).number == 2
        return False

    assert bench.run(begin_another, job_in_flight=8) == "superseded"
    assert bench.record.status == "running"


def test_a_job_over_its_time_fails_and_keeps_what_it_has(bench: Bench) -> None:
    bench.job(WORDS, chunk_texts=4)
    bench.hub.pause_s = 0.3
    assert bench.run(job_timeout_s=1, job_in_flight=4) == "failed"
    record = bench.record
    assert record.error_code == "job_timeout"
    assert record.done > 0
    assert bench.labels() == WORDS[: record.done]


def test_a_job_that_has_ended_is_not_run_again(bench: Bench) -> None:
    bench.job(WORDS)
    bench.run()
    bench.hub.asked.clear()
    assert bench.run() == "finished"
    assert bench.hub.asked == []
    assert bench.record.attempt == 1


def test_a_job_nobody_knows_is_nothing_to_run(bench: Bench) -> None:
    assert bench.run() == "gone"


def test_a_job_whose_attempts_end_without_progress_fails(bench: Bench) -> None:
    bench.job(WORDS)
    for _ in range(5):
        assert bench.store.start(JOB).status == "running"
    assert bench.run() == "failed"
    assert bench.record.error_code == "job_stalled"


def test_being_asked_to_stop_is_no_lack_of_progress(bench: Bench) -> None:
    bench.job(WORDS)
    bench.hub.pause_s = 5.0
    for _ in range(7):
        with pytest.raises(Interrupted):
            bench.run(lambda: True)
    bench.hub.pause_s = 0.0
    assert bench.run() == "finished"


def test_an_unforeseen_error_ends_the_attempt_and_not_the_job(bench: Bench) -> None:
    bench.job(WORDS)
    bench.hub.refusals = [RuntimeError("unforeseen")]
    with pytest.raises(ExceptionGroup):
        bench.run()
    assert bench.record.status == "running"
    assert bench.run() == "finished"
