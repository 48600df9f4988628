"""The jobs worker on a fake Redis: which jobs run, and beside which others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import redis
from rq.job import JobStatus

from batcher.core.holds import Pause
from batcher.core.publications import publication_queue
from batcher.errors import NoWorker
from batcher.jobs import worker
from batcher.jobs.models import JobModels
from batcher.jobs.store import LOST_S, PROCESS_DIGITS, SILENT_S, SMALL_TEXTS
from batcher.messages import fragment
from batcher.publishing.publications import PublicationStore
from tests.unit.batcher.jobs.jobs_bench import SETTINGS, Bench, P, number, until
from tests.unit.fakes import MODEL, RUNNING, prediction


async def test_many_jobs_run_to_their_ends_in_one_process(bench: Bench) -> None:
    ids = [bench.job(number(value), client=f"client {value % 3}") for value in range(40)]
    async with bench.working():
        await bench.ended(*ids)
    assert {bench.record(job_id).attempt for job_id in ids} == {1}
    assert len(bench.caches) == 1, "all jobs shared one connection"


async def test_no_more_jobs_of_a_size_run_at_once_than_there_are_places(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.hub().gate = asyncio.Event()
    sizes = [SMALL_TEXTS] * (worker.SMALL_JOBS + 2) + [SMALL_TEXTS + 1] * (worker.LARGE_JOBS + 2)
    ids = [bench.job(number(value), texts) for value, texts in enumerate(sizes)]
    claims = bench.claims(monkeypatch)
    async with bench.working():
        await until(lambda: bench.store.totals().running == worker.SMALL_JOBS + worker.LARGE_JOBS)
        claims.clear()
        await until(lambda: len(claims) > 3)
        assert {claim[:2] for claim in claims[1:]} == {(0, 0)}
        assert sum(bench.record(job_id).attempt for job_id in ids) == worker.SMALL_JOBS + worker.LARGE_JOBS
        bench.hub().gate.set()
        await bench.ended(*ids)
    assert claims[0][2:3] == ([],)
    processes = {token[:PROCESS_DIGITS] for *_, token, _ in claims}
    assert (len(processes), len({token for *_, token, _ in claims})) == (1, len(claims))


async def test_a_worker_that_has_nothing_to_do_looks_for_jobs_at_a_slow_rate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POLL_S", 60.0)
    claims, job_id = bench.claims(monkeypatch), bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id)
        await asyncio.sleep(0.2)
        assert len(claims) <= 3, "at once, and after the end of each job"


async def test_a_queue_that_no_job_uses_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "UNUSED_S", 0.01)
    async with bench.working():
        await bench.ended(bench.job("a" * 32))
        await until(lambda: bench.caches[0].closed)
        assert not bench.hub().running
        await bench.ended(bench.job("b" * 32))
    assert len(bench.caches) == 2


async def test_a_job_that_came_after_a_move_ran_on_what_had_answered_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOOK_S", 60.0)
    published = PublicationStore([bench.client], SETTINGS.queue_shards)
    async with bench.working():
        await bench.ended(bench.job("a" * 32))
        published.move("", published.publish("", "reference"))
        await bench.ended(bench.job("b" * 32))
    assert [bench.hubs[name].asked for name in ("", publication_queue("", 1))] == [
        [[f"{job} {text}" for text in range(3)]] for job in ("aaaa", "bbbb")
    ]


async def test_a_worker_is_stuck_whose_loop_has_stood_still(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(worker, "monotonic", lambda: clock[0])
    async with bench.working() as made:
        clock[0] += worker.STUCK_S
        assert not made.stuck
        clock[0] += 1.0
        assert made.stuck
        await until(lambda: not made.stuck)


async def test_a_worker_whose_queue_cannot_be_reached_has_a_problem(bench: Bench) -> None:
    bench.hub().gate = asyncio.Event()
    job_id = bench.job("a" * 32)
    async with bench.working() as made:
        await until(lambda: bench.hub().asked)
        assert made.problem is None
        bench.hub().reachable = False
        assert made.problem == "the Redis of the queue does not answer"
        bench.hub().gate.set()
        await bench.ended(job_id)
        await until(lambda: made.problem is None)  # no job uses it


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


@pytest.mark.parametrize("seen", [True, False], ids=["published", "before it is published"])
async def test_a_job_of_a_cascade_waits_while_a_member_has_other_labels(bench: Bench, seen: bool) -> None:
    """All of its texts failed with `labels_differ`, which no worker was asked to say."""
    cascade, sure = "quick=:sure:1.0", bench.hub("sure")
    foreign = fragment(["HAM", "SPAM"], [0.9, 0.1])
    sure.answer = lambda text: prediction(text)._replace(fragment=foreign)
    if seen:
        sure.snapshot = replace(RUNNING, model=replace(MODEL, labels=("HAM", "SPAM")))
    job_id = bench.job("a" * 32, model=cascade)
    async with bench.working() as made:
        await until(lambda: cascade in made._blocked and not made._tasks if seen else sure.asked[1:])
        assert bench.statuses(job_id) == {"running"}
        assert bool(sure.asked) is not seen
        sure.answer, sure.snapshot = prediction, RUNNING
        await bench.ended(job_id)
    assert (bench.record(job_id).done, bench.record(job_id).failed) == (3, 0)


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


async def test_a_worker_stops_while_a_model_cannot_answer(bench: Bench) -> None:
    bench.hub("blocked").refusal = NoWorker("none")
    bench.hub("blocked").snapshot = replace(RUNNING, workers=0)
    bench.job("a" * 32, model="blocked")
    async with bench.working() as made:
        await until(lambda: "blocked" in made._blocked)
    assert bench.statuses("a" * 32) == {"running"}


SIZES = pytest.mark.parametrize(
    ("texts", "most"),
    [(SMALL_TEXTS, worker.SMALL_JOBS), (SMALL_TEXTS + 1, worker.LARGE_JOBS)],
    ids=["small", "large"],
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
        one = bench.job("e" * 32, texts, client="one")
        await until(lambda: bench.record(one).attempt == 1)
        bench.hub().gate.set()
        await bench.ended(one, *many)


@pytest.mark.parametrize(
    ("running", "client", "begins"),
    [
        ("aaab", "b", True),
        ("aaab", "c", True),
        ("aabb", "c", True),
        ("aabc", "b", False),
        ("aabb", "b", False),
    ],
)
async def test_a_job_steps_aside_for_one_of_a_client_that_has_fewer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, running: str, client: str, begins: bool
) -> None:
    """By more than one; it is the oldest one of the client that has the most."""
    monkeypatch.setattr(worker, "TURN_S", inf)
    bench.hub().gate = asyncio.Event()
    claims = bench.claims(monkeypatch)
    async with bench.working():
        for value, owner in enumerate(running):
            bench.job(number(value), SMALL_TEXTS + 1, client=owner)
            await until(lambda begun=value + 1: bench.store.totals().running == begun)
        waits = bench.job("f" * 32, SMALL_TEXTS + 1, client=client)
        claims.clear()
        await until(lambda: bench.record(waits).attempt if begins else len(claims) > 3)
        await until(lambda: bench.queue.rq.get_job_ids() == [number(0) if begins else waits])
        bench.hub().gate.set()
        await bench.ended(waits, *map(number, range(len(running))))
    attempts = [bench.record(number(value)).attempt for value in range(len(running))]
    assert attempts == [1 + begins, 1, 1, 1]
    assert bench.record(waits).attempt == 1


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
        calls.append(args[-1])
        raise redis.exceptions.AuthenticationError("invalid username-password pair")

    claim = bench.store.claim
    monkeypatch.setattr(bench.store, "claim", refuse)
    job_id = bench.job("a" * 32)
    async with bench.working() as made:
        await until(lambda: len(calls) > 2)
        assert made.problem == "Redis does not answer: AuthenticationError"
        await asyncio.sleep(0.5)
        assert len(calls) < 12, "pauses between attempts"
        assert calls == [SILENT_S, *[LOST_S] * (len(calls) - 1)], "others may be silent for the same reason"
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
    caplog.set_level("INFO", "batcher.jobs.worker")
    bench.hub().refusal = RuntimeError("unforeseen")
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id, status="failed")
    assert bench.record(job_id).error_code == "job_stalled"
    assert bench.rq_job(job_id).get_status() == JobStatus.FAILED
    actions = [action for record in caplog.records if (action := record.__dict__.get("action"))]
    assert actions == ["job.broken"] * 5 + ["job.skipped"]
