"""RQ's side of jobs on a fake Redis, with RQ's own SimpleWorker: nothing pickled, nothing lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import ClassVar

import pytest
import redis
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job, JobStatus
from rq.registry import FinishedJobRegistry
from rq.serializers import JSONSerializer

from batcher.connection.outage import Outage
from batcher.jobs import main as jobs
from batcher.jobs.job_class import FUNCTION, ClassifyJob
from batcher.jobs.recovery import JobRecovery
from batcher.jobs.rq_queue import JobQueue, RqQueue
from batcher.jobs.rq_worker import SOCKET_TIMEOUT_S, JobsWorker, OneLineOutage
from batcher.jobs.runner import Interrupted
from batcher.jobs.store import JobStore
from batcher.settings import JobSettings
from tests.conftest import FakeRedis, encoded
from tests.unit.fakes import FakeCache, FakeHub, one_queue

JOB = "a" * 32
WORDS = [f"text {number}" for number in range(20)]


class Bench:
    """A store and a queue on one fake server, and a worker that runs what waits."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.settings = JobSettings(name="unit", job_ttl_s=600)
        self.store = JobStore(client, "unit", self.settings.job_ttl_s)
        self.queue = JobQueue(client, self.settings)
        self.recovery = JobRecovery(self.store, self.queue)
        self.hub, self.cache = FakeHub(lane="bulk"), FakeCache()
        jobs.prepare(self.settings, self.store, lambda model: one_queue(self.hub, self.cache))

    def create(self, job_id: str = JOB) -> None:
        upload = self.store.upload(job_id, 8)
        for at in range(0, 20, 8):
            upload.add(encoded(WORDS[at : at + 8]))
        assert self.store.create(upload, "d", 10).outcome == "created"

    def work(self) -> None:
        worker = SimpleWorker(
            [self.queue.rq], connection=self.client, serializer=JSONSerializer, job_class=ClassifyJob
        )
        worker.work(burst=True, logging_level="ERROR", max_jobs=5)

    def rq_job(self, job_id: str = JOB) -> Job:
        return Job.fetch(job_id, connection=self.client, serializer=JSONSerializer)

    def status(self, job_id: str = JOB) -> str:
        record = self.store.record(job_id)
        return record.status if record else "gone"


@pytest.fixture
def bench(fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(jobs, "_runner", None)
    return Bench(fake_redis.sync)


@pytest.fixture
def _signal_handlers() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_rq_runs_a_job_to_its_end(bench: Bench) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    assert bench.queue.known() == {JOB}
    bench.work()
    assert bench.status() == "finished"
    assert bench.rq_job().get_status() == JobStatus.FINISHED
    assert JOB in FinishedJobRegistry(queue=bench.queue.rq)
    assert bench.queue.known() == set()


def test_what_rq_keeps_is_json_and_ends_with_the_job(bench: Bench) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    bench.work()
    job = bench.rq_job()
    assert job.data == f'["{FUNCTION}",null,["{JOB}"],{{}}]'.replace(",", ", ").encode()
    assert (job.result_ttl, job.failure_ttl) == (600, 600)
    assert 0 < bench.client.ttl(f"rq:job:{JOB}") <= 600
    for key in bench.client.scan_iter():
        values = bench.client.hgetall(key).values() if bench.client.type(key) == b"hash" else []
        assert not any(value.startswith(b"\x80") for value in values), f"{key!r} looks pickled"


def test_a_job_that_is_enqueued_twice_runs_once(bench: Bench) -> None:
    bench.create()
    for _ in range(3):
        bench.queue.enqueue(JOB)
    bench.work()
    assert bench.status() == "finished"
    assert sorted(text for asked in bench.hub.asked for text in asked) == sorted(WORDS)


def test_a_forgotten_job_is_not_run(bench: Bench) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    bench.store.cancel(JOB)
    bench.queue.forget(JOB)
    bench.queue.forget(JOB)
    bench.work()
    assert bench.hub.asked == []
    assert not bench.client.exists(f"rq:job:{JOB}")


def test_an_interrupted_job_waits_at_the_front(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "b" * 32
    bench.create()
    bench.create(other)
    bench.queue.enqueue(JOB)
    bench.queue.enqueue(other)
    ran: list[str] = []

    def interrupted_once(job_id: str) -> str:
        ran.append(job_id)
        if len(ran) == 1:
            raise Interrupted
        return "finished"

    monkeypatch.setattr(jobs, "_runner", interrupted_once)
    bench.work()
    assert ran == [JOB, JOB, other]


def test_a_job_that_rq_lost_is_put_back_at_the_second_look(bench: Bench) -> None:
    bench.create()
    assert bench.recovery.look() == [], "it may be on its way"
    assert bench.recovery.look() == [JOB]
    assert bench.recovery.look() == []
    bench.work()
    assert bench.status() == "finished"


def test_a_job_between_two_of_rqs_lists_is_put_back(bench: Bench) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    bench.client.lmove(bench.queue.rq.key, bench.queue.rq.intermediate_queue_key)
    bench.recovery.look()
    assert bench.recovery.look() == [JOB]
    assert bench.queue.rq.intermediate_queue.get_job_ids() == []
    bench.work()
    assert bench.status() == "finished"


def test_a_job_that_somebody_stopped_by_rqs_own_means_is_put_back(bench: Bench) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    bench.rq_job().set_status(JobStatus.STOPPED)
    bench.queue.rq.pop_job_id()
    bench.recovery.look()
    assert bench.recovery.look() == [JOB]
    bench.work()
    assert bench.status() == "finished"


def test_a_job_that_raises_is_retried_whatever_redis_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts without progress are counted in the job's own record, so RQ's bound must not end it."""
    bench.create()
    bench.queue.enqueue(JOB)
    bench.client.hset(f"rq:job:{JOB}", "retries_left", 0)
    runner, calls = jobs._runner, []

    def raises_twice(job_id: str) -> str:
        calls.append(job_id)
        if len(calls) < 3:
            raise ZeroDivisionError
        assert runner is not None
        return runner(job_id)

    monkeypatch.setattr(jobs, "_runner", raises_twice)
    bench.work()
    assert (bench.status(), len(calls)) == ("finished", 3)


def test_a_finished_job_that_rq_calls_abandoned_stays_finished(bench: Bench) -> None:
    """RQ may move a job to its failed registry, or run it again, after it has finished (rq issue 2424)."""
    bench.create()
    bench.queue.enqueue(JOB)
    bench.work()
    before = bench.store.record(JOB)
    bench.rq_job().set_status(JobStatus.FAILED)
    bench.queue.enqueue_again(JOB)
    bench.hub.asked.clear()
    bench.work()
    assert bench.store.record(JOB) == before
    assert bench.hub.asked == []
    assert [bench.recovery.look(), bench.recovery.look()] == [[], []]


def test_the_next_job_is_taken_and_whatever_is_before_it_is_removed(bench: Bench) -> None:
    key, refused = bench.queue.rq.key, RqQueue.refused
    bench.client.rpush(key, "no job of this service")
    bench.create()
    bench.queue.enqueue(JOB)
    assert RqQueue.lmove(bench.client, key, None)[1] == JOB.encode()
    assert bench.client.lrange(f"{key}:intermediate", 0, -1) == [JOB.encode()]
    assert RqQueue.refused == refused + 1
    assert RqQueue.lmove(bench.client, key, None) is None


def test_a_lock_left_by_a_killed_worker_does_not_last(bench: Bench) -> None:
    assert bench.queue.rq.acquire_maintenance_lock()
    assert not bench.queue.rq.acquire_maintenance_lock()
    assert 0 < bench.client.ttl(bench.queue.rq.registry_cleaning_key) <= 30
    bench.client.expire(bench.queue.rq.registry_cleaning_key, 3600)  # as after the clock was set back
    assert bench.queue.rq.acquire_maintenance_lock()
    assert not bench.queue.rq.acquire_maintenance_lock()


def test_the_worker_beats_often_enough_to_be_missed_soon(bench: Bench) -> None:
    bench.create()
    worker = JobsWorker(
        [bench.queue.rq], connection=bench.client, serializer=JSONSerializer, job_monitoring_interval=5
    )
    worker.recovery = bench.recovery
    bench.queue.enqueue(JOB)
    assert worker.get_heartbeat_ttl(bench.rq_job()) <= 20
    assert worker.dequeue_timeout <= 5
    assert worker.connection_timeout == SOCKET_TIMEOUT_S, "RQ would raise it to this"
    bench.client.lpop(bench.queue.rq.key)
    worker.clean_registries()
    worker.clean_registries()
    assert bench.queue.rq.get_job_ids() == [JOB], "maintenance includes recovery"


def test_ids_that_rq_cannot_read_are_removed_and_no_others(bench: Bench) -> None:
    bench.create()
    worker = JobsWorker([bench.queue.rq], connection=bench.client, serializer=JSONSerializer)
    bench.queue.enqueue(JOB)
    taken = bench.queue.rq.intermediate_queue_key
    bench.client.lmove(bench.queue.rq.key, taken)
    bench.client.rpush(taken, b"\xff\x00", b"no id")
    worker.clean_registries()
    assert bench.client.lrange(taken, 0, -1) == [JOB.encode()]


@pytest.mark.parametrize(("error", "failed"), [(Interrupted(), False), (ZeroDivisionError(), True)])
def test_a_job_that_was_asked_to_stop_has_not_failed(bench: Bench, error: Exception, failed: bool) -> None:
    bench.create()
    bench.queue.enqueue(JOB)
    caught: list[object] = []
    worker = JobsWorker(
        [bench.queue.rq],
        connection=bench.client,
        serializer=JSONSerializer,
        exception_handlers=[lambda job, kind, value, trace: caught.append(value)],
    )
    worker.handle_exception(bench.rq_job(), type(error), error, error.__traceback__)
    assert caught == ([error] if failed else [])


@pytest.mark.usefixtures("_signal_handlers")
@pytest.mark.parametrize("pid", [0, 4321])
@pytest.mark.parametrize(
    ("error", "asked_to_stop", "again"),
    [(redis.exceptions.ConnectionError("gone"), False, True), (None, False, True), (None, True, False)],
)
def test_a_worker_that_ended_is_replaced_unless_it_was_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, asked_to_stop: bool, again: bool, pid: int
) -> None:
    class Fake:
        horse_pid = pid
        stop_requested = asked_to_stop
        did: ClassVar[list[str]] = []

        def work(self, logging_level: str) -> None:
            self.did.append("work")
            if error:
                raise error

        def kill_horse(self) -> None:
            self.did.append("kill")

        def wait_for_horse(self) -> None:
            self.did.append("wait")

    monkeypatch.setattr(jobs, "build_worker", lambda settings: Fake())
    monkeypatch.setattr(JobsWorker, "outage", Outage())
    assert jobs._work_once(JobSettings()) is again
    assert Fake.did == (["work", "kill", "wait"] if pid else ["work"])
    assert JobsWorker.outage.over == (error is None)


@pytest.mark.usefixtures("_signal_handlers")
def test_a_worker_ends_although_what_its_signal_handler_raised_was_lost(bench: Bench) -> None:
    """RQ raises StopRequested in the handler, wherever the signal interrupted this process."""
    worker = JobsWorker([bench.queue.rq], connection=bench.client, serializer=JSONSerializer)
    worker.register_birth()
    worker.heartbeat()
    with contextlib.suppress(StopRequested):
        worker.request_stop(signal.SIGTERM, None)
    with pytest.raises(StopRequested):
        worker.heartbeat()


def test_a_heartbeat_that_succeeds_ends_an_outage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobsWorker, "outage", Outage())
    worker = JobsWorker([bench.queue.rq], connection=bench.client, serializer=JSONSerializer)
    worker.register_birth()
    worker.outage.lost(redis.exceptions.ConnectionError("gone"))
    worker.heartbeat()
    assert worker.outage.over


def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    caplog.set_level(logging.INFO)
    outage = Outage()
    logger = logging.getLogger("rq.worker.of_a_test")
    logger.addFilter(OneLineOutage(outage))
    for _ in range(3):
        logger.error(
            "Worker %s: could not connect to Redis instance: %s retrying in %d seconds...", "w", "x", 1
        )
    logger.error("something else")
    outage.found()
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.levelno >= 30] == [
        "redis is unavailable",
        "something else",
        "redis is available again",
    ]


def test_a_job_needs_a_prepared_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_runner", None)
    with pytest.raises(AssertionError):
        jobs.run_prepared(JOB)


def test_a_job_stops_once_its_worker_is_gone_even_if_that_ended_first() -> None:
    """A worker that was killed right after the fork left a process that retried forever."""
    assert not jobs._stop_requested(os.getpid())(), "in the worker itself"
    assert not jobs._stop_requested(os.getppid())(), "in a process that the worker has forked"
    assert jobs._stop_requested(2**22 + 1)(), "the worker was gone before the job looked"


@pytest.mark.usefixtures("_signal_handlers")
def test_a_job_stops_once_its_process_is_told_to() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked = jobs._stop_requested(os.getpid())
    assert not asked()
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler), "the signal would end this process"
    handler(signal.SIGTERM, None)
    assert asked()


@pytest.mark.usefixtures("_signal_handlers")
def test_a_worker_that_runs_a_job_itself_keeps_its_own_handler() -> None:
    def handler(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    jobs._stop_requested(os.getpid())
    assert signal.getsignal(signal.SIGTERM) is handler
