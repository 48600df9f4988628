"""The jobs worker on a fake Redis: which jobs run, beside which others, and what RQ shows of them."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import Worker

from batcher import jobs
from batcher.connection.outage import Outage
from batcher.core.holds import Pause
from batcher.core.publications import publication_queue
from batcher.errors import NoWorker
from batcher.jobs import runner, worker
from batcher.jobs.models import JobModels, OpenQueues
from batcher.jobs.records import JobRecord
from batcher.jobs.rq_queue import FUNCTION, JobQueue, RqWorker
from batcher.jobs.store import LOST_S, PROCESS_DIGITS, SILENT_S, SMALL_TEXTS, JobStore
from batcher.jobs.upload import Submission
from batcher.jobs.worker import JobsWorker
from batcher.publishing.publications import PublicationStore
from batcher.settings import JobSettings
from tests.conftest import FakeRedis, encoded
from tests.unit.fakes import RUNNING, FakeCache, FakeHub

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


@pytest.fixture
def bench(fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(worker, "SOONEST_S", 0.001)
    monkeypatch.setattr(worker, "POLL_S", 0.02)
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(worker, "LOOK_S", 0.05)
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr(runner, "ASIDE_S", 0.1)
    monkeypatch.setattr(runner, "PATIENCE_S", 0.1)
    return Bench(fake_redis.sync, monkeypatch)


async def test_many_jobs_run_to_their_ends_in_one_process(bench: Bench) -> None:
    ids = [bench.job(number(value), client=f"client {value % 3}") for value in range(40)]
    async with bench.working():
        await bench.ended(*ids)
    assert {bench.record(job_id).attempt for job_id in ids} == {1}
    assert not any(hub.running for hub in bench.hubs.values())
    assert [cache.closed for cache in bench.caches] == [True], "all jobs shared one connection"


async def test_a_small_job_waited_for_a_large_one(bench: Bench) -> None:
    """One job ran at a time: one of a million texts held up the jobs of all clients."""
    bench.hub().gate = asyncio.Event()
    large = [bench.job(number(value), SMALL_TEXTS + 1) for value in range(20)]
    async with bench.working():
        await until(lambda: bench.store.totals().running == worker.LARGE_JOBS)
        bench.hub("other").pause_s = 0.0
        small = bench.job("f" * 32, client="two", model="other")
        await bench.ended(small)
        assert bench.store.totals().running == worker.LARGE_JOBS
        bench.hub().gate.set()
        await bench.ended(*large)


@pytest.mark.parametrize("why", ["no_worker", "paused"])
async def test_jobs_of_a_model_that_cannot_answer_hold_up_no_others(bench: Bench, why: str) -> None:
    blocked = bench.hub("blocked")
    blocked.refusal = NoWorker("none")
    pauses = {"bulk": Pause("keep", float("inf"))} if why == "paused" else {}
    blocked.snapshot = replace(RUNNING, workers=int(why == "paused"), pauses=pauses)
    waiting = [
        bench.job(number(value), SMALL_TEXTS * (value % 2) + 5, model="blocked") for value in range(60)
    ]
    async with bench.working() as made:
        await until(lambda: "blocked" in made._blocked and not made._tasks)
        others = [bench.job(number(value), model="free") for value in range(100, 103)]
        await bench.ended(*others)
        await until(lambda: not made._tasks)  # jobs that cannot go on cost nothing
        assert bench.statuses(*waiting) <= {"queued", "running"}
        blocked.refusal, blocked.snapshot = None, RUNNING
        await bench.ended(*waiting)
    assert {bench.record(job_id).error_code for job_id in waiting} == {""}


async def test_jobs_stayed_blocked_at_a_publication_that_had_been_taken_back(bench: Bench) -> None:
    """Its workers had ended. Until the jobs worker was restarted, no job of the model ran."""
    published = PublicationStore([bench.client], SETTINGS.queue_shards)
    number = published.publish("model", "reference")
    published.move("model", number)
    gone = bench.hub(publication_queue("model", number))
    gone.refusal, gone.snapshot = NoWorker("none"), replace(RUNNING, workers=0)
    job_id = bench.job("a" * 32, model="model")
    async with bench.working() as made:
        await until(lambda: "model" in made._blocked and not made._tasks)
        published.move("model", 0)
        await bench.ended(job_id)


SIZES = pytest.mark.parametrize(
    ("texts", "most"), [(5, worker.SMALL_JOBS), (SMALL_TEXTS + 1, worker.LARGE_JOBS)], ids=["small", "large"]
)


@SIZES
async def test_clients_share_what_runs_at_once(bench: Bench, texts: int, most: int) -> None:
    """A client with many jobs leaves room for those of others: its own step aside.

    It had all 16 places of small ones: one text of another client took 80 s.
    """
    bench.hub().gate = asyncio.Event()
    many = [bench.job(number(value), texts, client="many") for value in range(most + 5)]
    async with bench.working():
        await until(lambda: bench.store.totals().running == most)
        one = bench.job("e" * 32, texts + 9, client="one")
        await until(lambda: bench.record(one).attempt == 1)
        bench.hub().gate.set()
        await bench.ended(one, *many)


@SIZES
async def test_jobs_take_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch, texts: int, most: int) -> None:
    """Of more clients than run at once."""
    monkeypatch.setattr(worker, "TURN_S", 0.2)
    bench.hub().gate = asyncio.Event()
    ids = [bench.job(number(value), texts, client=f"client {value}") for value in range(most + 2)]
    async with bench.working():
        await until(lambda: all(bench.record(job_id).attempt for job_id in ids))
        bench.hub().gate.set()
        await bench.ended(*ids)


async def test_a_process_that_stops_releases_its_jobs_for_the_next(bench: Bench) -> None:
    bench.hub().gate = asyncio.Event()
    ids = [bench.job(number(value), 600) for value in range(3)]
    async with bench.working():
        await until(lambda: bench.store.totals().running == 3)
    assert bench.statuses(*ids) == {"running"}
    assert {one.decode() for one in bench.client.lrange(bench.queue.rq.key, 0, -1)} == {*ids}
    bench.hub().gate.set()
    async with bench.working():
        await bench.ended(*ids)
    assert {bench.record(job_id).attempt for job_id in ids} == {2}


def silent(bench: Bench, job_id: str, ago_s: float, token: str = "") -> bool:
    """Whether a claim begins a job of which nothing was heard for so long."""
    now_s, now_us = bench.client.time()
    seen_ms = now_s * 1000 + now_us // 1000 - int(ago_s * 1000)
    bench.client.hset(f"{P}:job:{job_id}", "seen_ms", seen_ms)
    return [one.job_id for one in bench.store.claim(1, 1, token=token).attempts] == [job_id]


def test_a_job_of_a_killed_process_is_lost_by_the_clock_of_redis(bench: Bench) -> None:
    """With a clock an hour ahead, a killed worker left its job `running` for that hour; later for 20 s."""
    job_id = bench.job("a" * 32)
    (first,) = bench.store.claim(1, 1).attempts
    assert bench.store.claim(1, 1).attempts == []
    assert not silent(bench, job_id, SILENT_S / 2)
    assert silent(bench, job_id, SILENT_S)
    assert silent(bench, job_id, -LOST_S - 1), "the clock was set back"
    assert bench.store.end(first, "finished") == "superseded"


def test_processes_that_are_only_slow_do_not_make_a_job_fail(bench: Bench) -> None:
    """Each attempt without progress that another process replaces is replaced later."""
    job_id = bench.job("a" * 32)
    (given_back,) = bench.store.claim(1, 1).attempts
    bench.store.release(given_back, 0)  # which is not counted
    bench.store.claim(1, 1)
    for times in (1, 2, 4, 8, 16):
        silent_s = min(times * SILENT_S, LOST_S)
        assert not silent(bench, job_id, silent_s - 0.5)
        assert silent(bench, job_id, silent_s + 0.5)
    assert bench.record(job_id).error_code == "job_stalled"


def test_a_process_takes_its_own_jobs_for_lost_late(bench: Bench) -> None:
    """It knows which of them it runs: their commands may only wait for its threads."""
    job_id, own = bench.job("a" * 32), "0" * PROCESS_DIGITS
    bench.store.claim(1, 1, token=own + "1" * 16)
    assert not silent(bench, job_id, LOST_S - 1, own + "2" * 16)
    assert silent(bench, job_id, LOST_S, own + "3" * 16)


async def test_jobs_whose_claim_was_not_answered_waited_for_20_s(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis had begun them when the connection broke. Five of these, and a job failed as stalled."""
    claim, lost = bench.store.claim, []

    def unanswered(*args: Any) -> Any:
        claimed = claim(*args)
        if claimed.attempts and not lost:
            lost.append(claimed)
            raise redis.exceptions.TimeoutError
        return claimed

    monkeypatch.setattr(bench.store, "claim", unanswered)
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id)
    assert lost
    assert bench.record(job_id).attempt == 1


def test_a_claim_that_is_sent_again_begins_nothing_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in range(4):
        bench.job(number(value))
    monkeypatch.setattr("batcher.jobs.store.secrets.token_hex", lambda size: "t" * size)
    first, again = bench.store.claim(2, 1), bench.store.claim(2, 1)
    assert len(first.attempts) == 2
    assert first.attempts == again.attempts


def test_small_jobs_and_clients_with_little_that_runs_go_first(bench: Bench) -> None:
    for value, (texts, client) in enumerate([(900, "a"), (500, "a"), (20, "a"), (800, "b"), (5000, "c")]):
        bench.job(number(value), texts, client)
    order = [bench.store.claim(1, 0).attempts[0] for _ in range(4)]
    assert [int(one.job_id, 16) for one in order] == [2, 3, 1, 0]
    assert bench.store.claim(9, 0).left == [(True, "c", 0)]
    assert [one.left for one in bench.store.claim(9, 1).attempts] == [5000]


async def test_an_error_of_redis_is_logged_once_with_its_reason_and_the_worker_is_not_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process was forked a dozen times a second, with every probe green and no reason in the log."""
    calls: list[float] = []

    def refuse(*args: Any) -> Any:
        calls.append(asyncio.get_event_loop_policy() is not None)
        raise redis.exceptions.AuthenticationError("invalid username-password pair")

    claim = bench.store.claim
    monkeypatch.setattr(bench.store, "claim", refuse)
    job_id = bench.job("a" * 32)
    async with bench.working() as made:
        await until(lambda: len(calls) > 2)
        assert made.problem == "Redis does not answer: AuthenticationError"
        await asyncio.sleep(0.5)
        assert len(calls) < 12, "pauses between attempts"
        monkeypatch.setattr(bench.store, "claim", claim)
        await bench.ended(job_id)
        await until(lambda: made.problem is None)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert logged == ["redis is unavailable: AuthenticationError"]


async def test_finding_28_no_attempt_begins_while_the_redis_of_the_queue_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue has another Redis than jobs. Five attempts that ended so made a job fail as stalled."""
    tries, read = [0], JobModels.read

    def away(models: JobModels) -> None:
        tries[0] += 1
        if tries[0] < 8:
            raise redis.exceptions.TimeoutError("away")
        read(models)

    monkeypatch.setattr(JobModels, "read", away)
    monkeypatch.setattr("batcher.connection.outage.RETRY_MAX_S", 0.02)
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id)
    assert bench.record(job_id).attempt == 1


async def test_an_attempt_that_breaks_is_repeated_a_few_times(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.hub().refusal = RuntimeError("unforeseen")
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id, status="failed")
    assert bench.record(job_id).error_code == "job_stalled"
    assert sum(record.__dict__.get("action") == "job.broken" for record in caplog.records) == 5


# -- RQ ------------------------------------------------------------------------------------------


async def test_rq_shows_what_waits_and_runs_and_how_it_ended(bench: Bench) -> None:
    bench.hub().gate = asyncio.Event()
    job_id = bench.job("a" * 32)
    waits = bench.rq_job(job_id)
    assert (waits.get_status(), waits.data) == (
        JobStatus.QUEUED,
        f'["{FUNCTION}", null, ["{job_id}"], {{}}]'.encode(),
    )
    async with bench.working():
        await until(lambda: bench.rq_job(job_id).get_status() == JobStatus.STARTED)
        rq = bench.queue.rq
        assert (rq.get_job_ids(), rq.started_job_registry.get_job_ids(cleanup=False)) == ([], [job_id])
        assert Worker.all_keys(queue=rq) == ["rq:worker:w1"]
        bench.hub().gate.set()
        await until(lambda: bench.rq_job(job_id).get_status() == JobStatus.FINISHED)
        assert rq.started_job_registry.get_job_ids(cleanup=False) == []
        assert rq.finished_job_registry.get_job_ids(cleanup=False) == [job_id]
        assert 0 < bench.client.ttl(f"rq:job:{job_id}") <= 600
    assert Worker.all_keys(queue=rq) == []
    for key in bench.client.scan_iter():
        values = bench.client.hgetall(key).values() if bench.client.type(key) == b"hash" else []
        assert not any(value.startswith(b"\x80") for value in values), f"{key!r} looks pickled"


async def test_a_job_that_rq_does_not_know_is_run_all_the_same(bench: Bench) -> None:
    job_id = bench.job("a" * 32)
    bench.queue.forget(job_id)
    async with bench.working():
        await bench.ended(job_id)


async def test_what_is_not_a_job_of_this_service_is_removed_from_the_queue_and_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    key, refused = bench.queue.rq.key, JobQueue.refused
    for name, function in (("b" * 32, "os.system"), ("short", FUNCTION)):
        call = zlib.compress(json.dumps([function, None, [name], {}]).encode())
        bench.client.hset(f"rq:job:{name}", mapping={"data": call, "status": "queued"})
        bench.client.rpush(key, name)
    bench.client.rpush(key, b"\xff\xfe")
    bench.job("c" * 32)
    bench.store.cancel("c" * 32)  # its item is not a foreign one
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id)
        await until(lambda: bench.client.llen(key) == 0)
    assert JobQueue.refused == refused + 3
    logged = [record for record in caplog.records if record.__dict__.get("action") == "job.refused"]
    assert sorted(record.__dict__["job"] for record in logged) == ["b" * 32, "short", "\ufffd\ufffd"]


def test_a_worker_of_rq_runs_no_jobs() -> None:
    with pytest.raises(RuntimeError, match="millrace jobs"):
        jobs.run("a" * 32)


def test_a_forgotten_job_leaves_nothing_in_rq(bench: Bench) -> None:
    job_id = bench.job("a" * 32)
    for _ in range(2):
        bench.queue.forget(job_id)
    assert bench.queue.rq.get_job_ids() == []
    assert not bench.client.exists(f"rq:job:{job_id}")
