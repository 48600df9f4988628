"""What an attempt at a job waits for, and for how long."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.core.holds import Pause
from batcher.errors import BudgetExceeded, NoWorker, Paused, QueueFull, QueueUnavailable
from batcher.jobs import runner
from batcher.jobs.runner import PATIENCE_S, Interrupted, SteppedAside
from batcher.jobs.store import JobStore
from batcher.settings import JobSettings
from tests.conftest import FakeRedis
from tests.unit.batcher.jobs.one_job import JOB, WORDS, Bench, answers
from tests.unit.fakes import RUNNING, run_attempt


@pytest.fixture
def bench(fake_redis: FakeRedis) -> Bench:
    return Bench(JobStore(fake_redis.sync, "unit", 60))


class Clock:
    """That of an attempt, in which time passes only while it pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        # Only for this module: threads of other tests may have loops that sleep.
        monkeypatch.setattr(runner, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": self._sleep}))
        monkeypatch.setattr(runner, "monotonic", lambda: 100.0 + sum(self.pauses))

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "refusal",
    [
        QueueFull("full", retry_after_s=0.01),
        NoWorker("none", retry_after_s=0.01),
        QueueUnavailable("away", retry_after_s=0.01),
        BudgetExceeded("over", retry_after_s=0.01),
    ],
)
def test_what_a_client_would_be_refused_for_a_job_waits_for(
    bench: Bench, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bench.hub.refusal, bench.hub.refuses = refusal, 5
    bench.job(WORDS)
    assert bench.run() == "finished"
    assert bench.results() == answers(WORDS)
    warnings = [record.__dict__["action"] for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["job.waits", "job.goes_on"]


@pytest.mark.parametrize(("asked_s", "pause_s"), [(0.05, 0.05), (None, 0.2), (3600.0, PATIENCE_S)])
def test_a_job_tries_again_after_the_time_that_it_was_told_within_bounds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked_s: float | None, pause_s: float
) -> None:
    clock = Clock(monkeypatch)
    refusal = NoWorker("none")
    refusal.retry_after_s = asked_s
    bench.hub.refusal, bench.hub.refuses = refusal, 3
    bench.job(["one"])
    assert bench.run() == "finished"
    assert clock.pauses == [pause_s] * 3


def test_a_job_waits_for_the_first_answer_of_redis(bench: Bench) -> None:
    """Half a second was not enough on a busy machine: the job said that the queue did not answer."""
    bench.job(WORDS)
    assert bench.run() == "finished"
    assert bench.hub.patience_s >= 5


@pytest.mark.parametrize("stops", [False, True])
def test_a_job_goes_on_when_the_redis_of_jobs_answers_again_unless_its_worker_stops(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    monkeypatch.setattr("batcher.jobs.runner.STORE_RETRY_S", 0.001)
    end, tries = bench.store.end, list[int]()

    def away(*args: Any) -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise redis.exceptions.ConnectionError("away")
        return end(*args)

    monkeypatch.setattr(bench.store, "end", away)
    bench.job(["one"])
    if stops:
        with pytest.raises(Interrupted):
            bench.run(lambda: bool(tries))
        assert len(tries) == 1
    else:
        assert bench.run() == "finished"
        assert len(tries) == 4


@pytest.mark.parametrize("why", ["no_worker", "paused"])
def test_a_job_steps_aside_while_its_model_cannot_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """It held up the jobs of all clients for up to six hours."""
    monkeypatch.setattr(runner, "ASIDE_S", 0.01)
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.01)
    bench.hub.refusal = NoWorker("none") if why == "no_worker" else Paused("paused")
    pauses = {"bulk": Pause("refuse", time.monotonic() + 600)} if why == "paused" else {}
    workers = 0 if why == "no_worker" else 1
    bench.hub.snapshot = replace(RUNNING, workers=workers, pauses=pauses)
    bench.job(WORDS)
    for _ in range(7):
        with pytest.raises(SteppedAside) as aside:
            bench.run()
        assert aside.value.blocked
    assert bench.record.status == "running"
    bench.hub.snapshot, bench.hub.refusal = RUNNING, None
    assert bench.run() == "finished"
    assert bench.results() == answers(WORDS)


async def test_a_job_whose_turn_is_over_steps_aside_for_its_model_can_answer(bench: Bench) -> None:
    bench.hub.gate = asyncio.Event()
    bench.job(WORDS)
    attempt = bench.store.start(JOB)
    with pytest.raises(SteppedAside) as aside:
        await run_attempt(attempt, bench.store, JobSettings(), bench.hub, bench.cache, others_wait=True)
    assert not aside.value.blocked
    assert bench.record.status == "running"


def test_time_without_a_worker_does_not_count_towards_the_time_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job failed with `job_timeout` after a pause that may last a day."""
    monkeypatch.setattr(runner, "ASIDE_S", 2.0)
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.05)
    bench.hub.refusal, bench.hub.snapshot = NoWorker("none"), replace(RUNNING, workers=0)
    bench.job(WORDS)
    with pytest.raises(SteppedAside):
        bench.run(job_timeout_s=1)
    attempt = bench.store.start(JOB)
    assert attempt.ran_ms < 1000
    bench.store.release(attempt, attempt.ran_ms)
    bench.hub.refusal, bench.hub.snapshot = None, RUNNING
    assert bench.run(job_timeout_s=1) == "finished"


FULL, AWAY = redis.exceptions.OutOfMemoryError("OOM"), redis.exceptions.TimeoutError("away")


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([FULL], "finished"),
        ([FULL] * 120, "finished"),
        ([FULL] * 120 + [AWAY] * 300 + [FULL] * 120, "finished"),
        ([FULL] * 121, "failed"),
    ],
    ids=["at once", "just in time", "which was away meanwhile", "too late"],
)
def test_a_job_fails_once_redis_has_been_full_for_long(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    errors: list[Exception],
    status: str,
) -> None:
    """A minute. It was tried again for ever, and kept Redis full."""
    clock, raised, append = Clock(monkeypatch), [*errors], bench.store.append

    def tried(*args: Any, **options: Any) -> str:
        if raised:
            raise raised.pop(0)
        return append(*args, **options)

    monkeypatch.setattr(bench.store, "append", tried)
    bench.job(WORDS)
    assert bench.run() == status
    assert raised == []
    assert clock.pauses == [runner.STORE_RETRY_S] * (len(errors) - (status == "failed"))
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage().startswith("job is waiting: the Redis of jobs: ")
    if status == "failed":
        assert bench.record.error_code == "redis_full"
        assert bench.store.input(JOB, 0) is None, "its texts make room"


def test_a_job_stays_while_its_model_cannot_answer_for_a_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.001)
    bench.hub.refusal, bench.hub.refuses = NoWorker("none", retry_after_s=0.01), 9
    bench.hub.snapshot = replace(RUNNING, workers=0)
    bench.job(WORDS)
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            bench.hub.snapshot = RUNNING
        return False

    assert bench.run(look) == "finished"
    assert looks >= 3
