"""Findings of a review, each kept as a test: what the queue promises although something fails around it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import fakeredis
import pytest
import redis
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from batcher.connection.clients import round_trip
from batcher.core.commands import (
    TEXTS,
    AddUsage,
    Answer,
    AskQuestion,
    EndWait,
    Lend,
    NoteRefused,
    Outcomes,
    Question,
    SetPause,
    UsageRow,
)
from tests.fakeredis_patches import FullMemory
from tests.integration.test_queue_contract import ANSWER, FAILURE, MODEL, RECORD, Bench, ids_of
from tests.servers import RedisServer
from tests.service import wait_until

HOUR_MS = 3_600_000
OTHER = {"revision": "B"}


@pytest.fixture
def bench(client: redis.Redis) -> Bench:
    return Bench(client)


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[Bench]:
    """The same over a real server: fakeredis does not simulate memory limits and permissions."""
    with redis_server.client() as client:
        yield Bench(client)


Fill = Callable[[bool], None]


@pytest.fixture
def fill(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fills the memory of the server, or empties it."""
    if not isinstance(client, fakeredis.FakeRedis):
        return lambda full: client.config_set("maxmemory", int(full))
    memory = FullMemory()
    for name, patch in memory.patches().items():
        monkeypatch.setattr(ScriptingCommandsMixin, name, patch)
    return partial(setattr, memory, "full")


def outcomes(bench: Bench, *ids: str) -> list[bytes]:
    (states,) = bench.worker().run([Outcomes(ids)])
    return [state.result or state.kind.encode() for state in states]


def step(bench: Bench, ms: int) -> None:
    """The clock of the Redis host steps, as far as the queue can see: from here on TIME says `ms` more."""
    key = f"{bench.P}:clock"
    offset, seen = bench.client.get(key).split()
    bench.client.set(key, b"%d %b" % (int(offset) + ms, seen))


@pytest.mark.redis
def test_finding_02_while_redis_is_full_no_worker_that_lives_is_blamed(real: Bench) -> None:
    """Claims went on, heartbeats and results were refused: records ended, and the text was called poison."""
    real.ask("x", lane="bulk", budget_ms=300_000)
    workers = [real.worker(f"w{n}", lease_ms=300, revision="rev", cache_ms=60_000) for n in range(4)]
    for worker in workers:
        worker.heartbeat([], RECORD, MODEL, 750)
    real.client.config_set("maxmemory", 1)
    held: dict[str, list[str]] = {worker.worker: [] for worker in workers}
    until = time.monotonic() + 4
    while time.monotonic() < until:
        for worker in workers:
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                worker.heartbeat(held[worker.worker], RECORD, MODEL, 750)
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                held[worker.worker] += ids_of(worker.claim(10, 100, 100))
        with contextlib.suppress(redis.exceptions.OutOfMemoryError):
            real.sweep()
        time.sleep(0.02)
    assert real.client.lrange(f"{real.P}:dead", 0, -1) == []
    assert sum(worker.complete([("x", ANSWER)]) for worker in workers if held[worker.worker]) == 1
    assert outcomes(real, "x") == [ANSWER]


def test_finding_02_a_full_redis_takes_no_new_text_and_lets_all_others_end(bench: Bench, fill: Fill) -> None:
    worker = bench.worker("w", revision="rev", cache_ms=60_000)
    worker.heartbeat([], RECORD, MODEL, 5000)
    bench.ask("answered", "given back", "cancelled", "joined", "waits")
    assert len(worker.claim(2, 100, 100).entries) == 2
    fill(True)
    for refused in ("new", "joined"):
        with pytest.raises(redis.exceptions.ResponseError):
            bench.ask(refused)
    assert bench.cancel("cancelled") == 1
    assert worker.release(["given back"]) == 1
    assert worker.complete([("answered", ANSWER)]) == 1
    assert worker.heartbeat([], RECORD, MODEL, 5000) == 0
    assert bench.sweep().workers == 1
    assert bench.live() == {"w"}
    busy = worker.claim(10, 100, 100, free=False)
    assert ids_of(busy) == ["given back", "joined", "waits"]
    assert worker.complete([(entry, ANSWER) for entry in ids_of(busy)]) == 3
    assert bench.leftovers() == []


def test_finding_02_what_is_past_its_budget_is_dropped_although_redis_is_full(
    bench: Bench, fill: Fill
) -> None:
    bench.ask("late", "later", budget_ms=1)
    bench.ask("x")
    time.sleep(0.01)
    fill(True)
    claim = bench.worker().claim(10, 100, 100, free=False)
    assert (ids_of(claim), claim.expired) == (["x"], 2)
    assert sorted(entry for entry, _ in bench.hints()) == ["late", "later"]


def test_finding_02_a_full_redis_hears_of_idle_workers_and_of_what_operators_do(
    bench: Bench, fill: Fill
) -> None:
    worker, other = bench.worker("w"), bench.worker("other")
    for one in (worker, other):
        one.heartbeat([], RECORD, MODEL, 60_000, takeover=True)
    bench.ask("x", "y")
    worker.claim(1, 100, 100)
    bench.failed_elsewhere("x")
    worker.complete([("x", FAILURE)])
    fill(True)
    asked, usage = Question("token", TEXTS, ("x",)), UsageRow("web", "2026-01-31", 5, 0, 1, 0, 0)
    assert worker.run([NoteRefused("x", "key:web")]) == [1]
    assert worker.run([SetPause("bulk", "keep", 60_000, 1)])[0].keys() == {"bulk"}
    assert worker.run([AskQuestion(asked, 1000), Answer("token", "{}")]) == [True, 1]
    assert worker.run([AddUsage("a", 1, "{}", 60_000, [usage])]) == [[5]]
    assert ids_of(other.claim(1, 100, 100)) == ["y"]
    assert other.complete([("y", FAILURE)], idle=True) == 0, "it runs again, where it has not failed"
    assert ids_of(worker.claim(1, 100, 100)) == ["y"]
    assert worker.complete([("y", ANSWER)]) == 1
    assert worker.claim(1, 100, 100, idle_ms=0).entries == []
    assert worker.run([Lend(3, 0)]) == [0], "it is idle, and is woken"
    assert worker.wait(0.01)
    assert worker.run([EndWait("w")]) == [1]
    assert worker.wait(0.01)


def test_finding_04_an_old_failure_does_not_answer_a_later_caller(bench: Bench) -> None:
    """enqueue ignored it, and the slow poll of the same caller did not."""
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.failed_elsewhere("x")
    bench.worker().complete([("x", FAILURE)])
    assert outcomes(bench, "x") == [FAILURE], "a request that lost the hint is answered"
    assert bench.ask("x", api="b") == [b"queued"]
    assert outcomes(bench, "x") == [b"waiting"]
    bench.worker().claim(10, 100, 100)
    assert outcomes(bench, "x") == [b"waiting"]
    bench.worker().complete([("x", ANSWER)])
    assert outcomes(bench, "x") == [ANSWER]


def test_finding_06a_a_kept_result_of_a_model_that_has_left_answers_nobody(bench: Bench) -> None:
    old, new = bench.worker("old"), bench.worker("new")
    old.heartbeat([], RECORD, MODEL, 5000, takeover=True)
    bench.ask("x")
    old.claim(10, 100, 100)
    old.complete([("x", ANSWER)])
    new.heartbeat([], RECORD | OTHER, MODEL | OTHER, 5000, takeover=True)
    assert bench.ask("x") == [ANSWER], "a living worker runs its model"
    old.retire()
    assert bench.ask("x", "y") == [b"queued", b"queued"]
    assert outcomes(bench, "x") == [b"waiting"]
    assert ids_of(new.claim(10, 100, 100)) == ["x", "y"]
    answer = ANSWER.replace(b'"rev"', b'"B"')
    new.complete([("x", answer)])
    new.retire()
    assert bench.ask("x") == [answer], "the current model answers, though no worker lives"


def test_finding_06a_a_kept_result_that_names_no_model_answers_nobody(bench: Bench) -> None:
    bench.worker().heartbeat([], RECORD, MODEL, 5000, takeover=True)
    for raw in (b"of now", b"", b'["rev"', ANSWER[:20]):
        bench.client.set(f"{bench.P}:res:x", raw)
        assert bench.ask("x") == [b"queued"]
        bench.cancel("x")


def test_finding_08_a_full_redis_costs_a_hit_and_no_answer(bench: Bench, fill: Fill) -> None:
    worker = bench.worker(revision="rev", cache_ms=60_000)
    bench.ask("x", "y")
    worker.claim(10, 100, 100)
    fill(True)
    assert worker.complete([("x", ANSWER), ("y", ANSWER)]) == 2
    assert worker.remembers, "memory comes back"
    assert bench.client.keys("millrace:cache:*") == []
    fill(False)
    bench.ask("z")
    worker.claim(10, 100, 100)
    worker.complete([("z", ANSWER)])
    assert bench.client.keys("millrace:cache:*") == [b"millrace:cache:2:t:rev:z"]


@pytest.mark.redis
def test_finding_08_a_forbidden_cache_costs_a_hit_and_no_answer(real: Bench) -> None:
    real.client.execute_command("ACL", "SETUSER", "admin", "resetkeys", "~{millrace:*}*")
    worker = real.worker(revision="rev", cache_ms=60_000)
    real.ask("x", "y")
    worker.claim(10, 100, 100)
    assert worker.complete([("x", ANSWER), ("y", ANSWER)]) == 2
    assert not worker.remembers
    assert [entry for entry, _ in real.hints()] == ["x", "y"]
    assert real.sweep_with("millrace:cache:2:t:", 100, 1).recovered == 0


def test_finding_08_where_memory_is_short_nothing_is_remembered_and_results_go(bench: Bench) -> None:
    worker = bench.worker(revision="rev", cache_ms=60_000)
    bench.client.mset({f"millrace:cache:2:t:rev:{n}": ANSWER for n in range(300)})
    bench.client.mset({f"millrace:cache:other:rev:{n}": ANSWER for n in range(50)})
    bench.ask("x", "y")
    worker.claim(1, 100, 100)
    bench.sweep_with("millrace:cache:2:t:", 100, 1)
    assert len(bench.client.keys("millrace:cache:2:t:*")) <= 200
    assert worker.complete([("x", ANSWER)]) == 1
    assert not bench.client.exists("millrace:cache:2:t:rev:x")
    bench.sweep_with("millrace:cache:2:t:", 4000, 0)
    assert bench.client.keys("millrace:cache:2:t:*") == []
    assert len(bench.client.keys("millrace:cache:other:*")) == 50, "another service's"
    assert ids_of(worker.claim(1, 100, 100)) == ["y"]
    wait_until(lambda: not bench.client.exists(f"{bench.P}:full"), "the mark to end by itself")
    assert worker.complete([("y", ANSWER)]) == 1
    assert bench.client.exists("millrace:cache:2:t:rev:y")


def test_finding_08_a_sweep_evicts_hardly_more_than_it_must(bench: Bench) -> None:
    """A scan finds about 200 results."""
    bench.client.mset({f"millrace:cache:2:t:rev:{n}": ANSWER for n in range(2000)})
    bench.sweep_with("millrace:cache:2:t:", 100, 0)
    assert 1700 < len(bench.client.keys("millrace:cache:2:t:*")) <= 1900


def test_finding_22_a_release_after_the_entry_is_gone_leaves_nothing(bench: Bench) -> None:
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.client.delete(f"{bench.P}:entry:x")
    assert bench.worker().release(["x"]) == 0
    assert bench.leftovers() == []


def test_finding_22_whatever_writes_a_key_anew_gives_it_an_end(bench: Bench) -> None:
    """Hashes end by themselves; a script that comes later must not bring one back for ever."""
    gone = [f"{bench.P}:{name}" for name in ("waiting", "claims", "workers", "idle")]
    for lane in ("interactive", "bulk"):
        bench.ask("a", "b", "c", "d", "e", lane=lane)
        bench.client.delete(*gone)
        bench.worker("w", lease_ms=1).claim(1, 100, 100)
        assert endless(bench) <= {"q", "bulk", "inflight"}
        time.sleep(0.01)
        bench.client.delete(*gone)
        bench.sweep()
        bench.client.delete(*gone)
        bench.ask("b", "c")
        bench.client.delete(*gone)
        bench.worker().claim(2, 100, 100, free=False)
        bench.worker().claim(2, 100, 100)
        bench.client.delete(*gone)
        bench.worker().release(["a", "b"])
        bench.client.delete(*gone)
        bench.cancel("a", "b", "c", "d", "e")
        assert endless(bench) <= {"q", "bulk", "solo", "inflight", "clock"}
        bench.client.flushall()


def endless(bench: Bench) -> set[str]:
    return {
        key.decode().removeprefix(f"{bench.P}:")
        for key in bench.client.keys("*")
        if bench.client.ttl(key) == -1
    }


@pytest.mark.parametrize("ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
def test_finding_25_a_step_of_the_clock_ends_no_lease_no_budget_and_no_worker(bench: Bench, ms: int) -> None:
    worker = bench.worker("w", lease_ms=2000)
    bench.ask("held", "waits")
    worker.heartbeat([], RECORD, MODEL, 5000, takeover=True)
    worker.claim(1, 100, 100)
    step(bench, ms)
    other = bench.worker("other")
    other.heartbeat([], RECORD | OTHER, MODEL | OTHER, 5000)
    snapshot = bench.sweep()
    assert (snapshot.recovered, snapshot.interactive.entries, snapshot.workers) == (0, 1, 2)
    assert bench.live() == {"w", "other"}
    assert snapshot.model is not None
    assert snapshot.model.revision == "rev", "the model that answers is still current"
    assert worker.heartbeat(["held"], RECORD, MODEL, 5000) == 1
    (waits,) = worker.claim(10, 100, 100).entries
    assert waits.id == "waits"
    assert 50_000 < waits.remaining_ms <= 60_000
    assert 0 <= waits.waited_ms < 2_000
    assert worker.complete([("held", ANSWER), ("waits", ANSWER)]) == 2
    assert bench.leftovers() == []


@pytest.mark.parametrize("ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
def test_finding_25_after_a_step_time_goes_on(bench: Bench, ms: int) -> None:
    """A clock that stood back an hour kept the leases of the dead for that hour."""
    bench.ask("x", budget_ms=60_000)
    worker = bench.worker("dead", lease_ms=500)
    worker.heartbeat([], RECORD, MODEL, 500)
    worker.claim(10, 100, 100)
    step(bench, ms)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease of a dead worker to end", 10)
    wait_until(lambda: bench.sweep().workers == 0, "its record to end", 10)
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


@pytest.mark.redis
def test_finding_25_a_time_in_which_redis_takes_no_writes_ends_no_lease(real: Bench) -> None:
    """Beats were refused as well: every lease and every record had ended by the first sweep after it."""
    worker = real.worker("w", lease_ms=2000)
    real.ask("x")
    worker.claim(10, 100, 100)
    worker.heartbeat(["x"], RECORD, MODEL, 2000)
    real.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(redis.exceptions.ResponseError):
        worker.heartbeat(["x"], RECORD, MODEL, 2000)
    time.sleep(3)
    real.client.config_set("min-replicas-to-write", 0)
    assert real.sweep().recovered == 0
    assert real.live() == {"w"}
    assert worker.heartbeat(["x"], RECORD, MODEL, 2000) == 1


def test_finding_30_a_text_that_failed_and_is_cancelled_leaves_the_queue(bench: Bench) -> None:
    """The worker that had failed on it left its id to the others until its budget ended.

    Meanwhile, busy workers claimed nothing. Found by `python -m tests.simulation`.
    """
    for name in ("w", "other"):
        bench.worker(name).heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.worker().complete([("x", FAILURE)])
    assert bench.client.lrange(f"{bench.P}:solo", 0, -1) == [b"x"]
    assert bench.cancel("x") == 1
    assert bench.worker().claim(10, 100, 100).entries == []
    assert not bench.client.exists(f"{bench.P}:solo")


def test_finding_32_a_failure_is_reported_again_while_memory_is_full(bench: Bench, fill: Fill) -> None:
    """The first call had left nothing to answer, so the first write was that the worker is idle: refused."""
    worker = bench.worker("w")
    worker.heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x", budget_ms=300_000)
    assert ids_of(worker.claim(10, 100, 100)) == ["x"]
    fill(True)
    for _ in range(2):  # the second one is sent because the reply to the first was lost
        worker.complete([("x", FAILURE)], idle=True)
    fill(False)
    assert bench.client.zscore(f"{bench.P}:idle", "w") is not None


def test_finding_33_a_wake_up_has_an_end_from_the_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was cut off after the first of two commands left a key that never expired."""

    def lost(*words: object) -> None:
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr(bench.client, "pexpire", lost)
    with contextlib.suppress(redis.exceptions.ConnectionError):
        bench.worker().wake()
    assert bench.client.pttl(f"{bench.P}:wake:w") > 0


def test_finding_37_a_worker_that_redis_has_forgotten_is_woken_once_it_is_known_again(bench: Bench) -> None:
    """It waited to the end of its claim, up to two seconds, while texts did."""
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 60_000, takeover=True)
    bench.client.flushall()
    assert worker.claim(10, 100, 100, idle_ms=0).entries == []
    bench.ask("x")
    assert not worker.wait(0.01), "it may have ended"
    worker.heartbeat([], RECORD, MODEL, 60_000)
    assert worker.wait(0.01)
    assert ids_of(worker.claim(10, 100, 100)) == ["x"]
    worker.heartbeat([], RECORD, MODEL, 60_000)
    assert not worker.wait(0.01), "once"


def test_finding_38_a_text_that_failed_runs_alone_wherever_else_it_is_listed(bench: Bench) -> None:
    """A text with priority has two places. It was claimed from the second one too, in a batch with others."""
    for name in ("w", "other"):
        bench.worker(name).heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("a")
    bench.ask("x", first=True)
    bench.ask("b")
    assert ids_of(bench.worker("w").claim(1, 100, 100)) == ["x"]
    bench.worker("w").complete([("x", FAILURE)])
    assert ids_of(bench.worker("w").claim(10, 100, 100)) == ["a", "b"]
    (claimed,) = bench.worker("other").claim(10, 100, 100).entries
    assert (claimed.id, claimed.solo, claimed.attempts) == ("x", True, 2)
    bench.worker("other").complete([("x", ANSWER)])
    bench.worker("w").complete([("a", ANSWER), ("b", ANSWER)])
    assert bench.worker("w").claim(10, 100, 100).skipped == 0
    assert not bench.client.exists(f"{bench.P}:q", f"{bench.P}:solo", f"{bench.P}:claims")


def test_finding_39_a_worker_that_ran_on_without_a_text_did_not_die_of_it(bench: Bench) -> None:
    """The reply to its claim was lost, it ended later, and nothing looked meanwhile: that was a death."""
    first, lost, later, last = (
        bench.worker(name, lease_ms=100, max_attempts=1) for name in ("first", "lost", "later", "last")
    )
    bench.ask("x", budget_ms=300_000)
    for worker in (first, lost, later):
        worker.heartbeat([], RECORD, MODEL, 250)
        assert ids_of(worker.claim(10, 100, 100)) == ["x"]
        time.sleep(0.1)
        if worker is lost:
            worker.heartbeat([], RECORD, MODEL, 250)
        time.sleep(0.3)
    # The third one has not been heard of since it took the text.
    last.heartbeat([], RECORD, MODEL, 250)
    assert last.claim(10, 100, 100).entries == []
    assert b'"poison"' in outcomes(bench, "x")[0]


def test_finding_40_an_old_failure_is_gone_once_its_text_is_asked_for_again(bench: Bench) -> None:
    """Redis then lost the new entry, and the slow poll took the failure for its answer."""
    bench.ask("x")
    for worker in (bench.worker("v"), bench.worker("w")):
        worker.heartbeat([], RECORD, MODEL, 60_000)
    for worker in (bench.worker("v"), bench.worker("w")):
        assert ids_of(worker.claim(10, 100, 100)) == ["x"]
        worker.complete([("x", FAILURE)])
    assert outcomes(bench, "x") == [FAILURE]
    bench.ask("x")
    bench.client.delete(f"{bench.P}:entry:x")
    assert outcomes(bench, "x") == [b"gone"]


def test_finding_41_a_late_failure_leaves_the_answer_of_another_worker(bench: Bench) -> None:
    """A worker froze, another one answered, and then the first reported a failure: that became the result."""
    for name in ("frozen", "w"):
        bench.worker(name).heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x", budget_ms=300_000)
    frozen = bench.worker("frozen", lease_ms=50)
    assert ids_of(frozen.claim(10, 100, 100)) == ["x"]
    time.sleep(0.1)
    assert ids_of(bench.worker("w").claim(10, 100, 100)) == ["x"]
    bench.worker("w").complete([("x", ANSWER)])
    frozen.complete([("x", FAILURE)])
    assert outcomes(bench, "x") == [ANSWER]


@pytest.mark.parametrize("ended", ["answered", "budget over"])
def test_a_frozen_worker_brings_back_no_text_that_was_forgotten(bench: Bench, ended: str) -> None:
    """Its lease had ended, and another worker had answered: its late result was kept and cached again."""
    for name in ("frozen", "w"):
        bench.worker(name).heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x", budget_ms=300_000 if ended == "answered" else 1000)
    bench.ask("y")
    frozen = bench.worker("frozen", lease_ms=50, revision="rev", cache_ms=60_000)
    assert set(ids_of(frozen.claim(10, 100, 100))) == {"x", "y"}
    time.sleep(0.1 if ended == "answered" else 1.1)
    if ended == "answered":
        assert ids_of(bench.worker("w").claim(1, 100, 100)) == ["x"]
        bench.worker("w").complete([("x", ANSWER)])
        bench.client.delete(f"{bench.P}:res:x")  # as `forget` does
    else:
        bench.sweep()
    assert frozen.complete([("x", ANSWER), ("y", ANSWER)]) == 1
    assert not bench.client.exists(f"{bench.P}:res:x", "millrace:cache:2:t:rev:x")
    assert bench.client.exists(f"{bench.P}:res:y", "millrace:cache:2:t:rev:y") == 2, "it still waited"


@pytest.mark.parametrize("leaves", ["while it runs", "while it is held back"])
def test_finding_42_a_text_that_failed_is_not_run_again_for_a_client_that_left(
    bench: Bench, leaves: str
) -> None:
    """The only worker ran it until its budget ended. Found by `python -m tests.simulation`."""
    worker = bench.worker("w")
    worker.heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x", budget_ms=300_000)
    assert ids_of(worker.claim(10, 100, 100)) == ["x"]
    if leaves == "while it runs":
        assert bench.cancel("x") == 0
        worker.complete([("x", FAILURE)])
    else:
        worker.complete([("x", FAILURE)])
        assert bench.cancel("x") == 1
    kinds = ("q", "solo", "inflight", "claims", "entry:x", "res:x", "refusals")
    assert [kind for kind in kinds if bench.client.exists(f"{bench.P}:{kind}")] == []
    bench.ask("y")
    assert worker.claim(10, 100, 100).skipped == 0


def test_finding_43_another_process_sweeps_at_once_if_the_clock_was_set_back(bench: Bench) -> None:
    """It waited for the lease of one that had ended, which was longer by the step."""
    bench.worker().heartbeat([], RECORD, MODEL, 60_000)
    assert bench.sweep(api="a").swept
    assert not bench.sweep(api="b").swept
    bench.client.pexpire(f"{bench.P}:sweeper", HOUR_MS)
    assert bench.sweep(api="b").swept
    assert not bench.sweep(api="a").swept


def test_finding_44_a_sweep_does_not_make_the_keys_of_a_dropped_revision_last(bench: Bench) -> None:
    """One that came after the last worker had left gave the clock of the queue no end again."""
    worker = bench.worker("w")
    worker.heartbeat([], RECORD, MODEL, 60_000)
    worker.claim(10, 100, 100, idle_ms=0)
    bench.sweep()
    worker.retire()
    worker.expire_keys()
    assert bench.sweep().swept
    lives = {key.decode(): bench.client.pttl(key) for key in bench.client.keys(f"{bench.P}:*")}
    assert f"{bench.P}:clock" in lives
    assert {key: ms for key, ms in lives.items() if not 0 < ms <= 300_000} == {}
    bench.worker("other").heartbeat([], RECORD, MODEL, 60_000)
    assert bench.client.pttl(f"{bench.P}:clock") == -1, "it is served again"


def test_finding_46_a_wake_up_and_its_end_are_one_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the connection broke between the two, the list of a worker that had stopped was kept forever."""
    sent: list[str] = []
    thread = threading.get_ident()

    def recorded(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if threading.get_ident() == thread:  # a worker of an earlier test may still wait in another
            sent.extend(words[0] for words in commands)
        return round_trip(client, commands)

    monkeypatch.setattr("batcher.worker.queue.round_trip", recorded)
    bench.worker("w").wake()
    assert sent == ["EVALSHA"]
    assert bench.client.lrange(f"{bench.P}:wake:w", 0, -1) == [b"1"]
    assert 0 < bench.client.pttl(f"{bench.P}:wake:w") <= 60_000
