"""The queue's contract, on fakeredis and on a real Redis: what each script promises, by its answers."""

from __future__ import annotations

import itertools
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.connection.clients import round_trip
from batcher.core.commands import (
    AddUsage,
    AskQuestion,
    Cancel,
    Claimed,
    Complete,
    Completed,
    Enqueue,
    EnqueueAll,
    Full,
    HeartbeatReply,
    Lend,
    NoteRefused,
    Outcomes,
    Question,
    SendHeartbeat,
    State,
    UsageRow,
    Wake,
)
from batcher.core.holds import ClientHolds
from batcher.core.keys import cache_prefix
from batcher.core.redis_watch import NO_MEMORY, Memory
from batcher.core.snapshot import Fallback, Snapshot, Sweep, Workers, merge
from batcher.errors import QueueFull
from batcher.messages import Failure, Prediction, decode_result, fragment
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.several import Listing
from tests.fakes import heartbeat_queue
from tests.servers import RedisServer, leftovers
from tests.service import wait_until

ANSWER = Prediction(fragment(("N", "P"), (0.25, 0.75)), "rev", 3).encode()
FAILURE = Failure("inference_failed", "no").encode()
RECORD = {
    "revision": "rev",
    "engine": "stub",
    "precision": "f32",
    "state": "idle",
    "rate": 100,
    "batches": 0,
    "texts": 0,
    "last_batch": 0,
    "started_ms": 1,
}
MODEL = {
    "name": "m",
    "revision": "rev",
    "labels": "N\nP",
    "max_tokens": 9,
    "engine": "stub",
    "precision": "f32",
}


class Bench:
    """Both ends over one client; `api("a")` is an API process, `worker("w")` a worker."""

    def __init__(self, client: redis.Redis, queue: str = "t") -> None:
        self.client = client
        self.queue = queue
        self.P = f"{{millrace:2:{queue}}}"

    def worker(
        self, name: str = "w", lease_ms: int = 2000, max_attempts: int = 3, **cache: Any
    ) -> HeartbeatQueue:
        return heartbeat_queue(
            self.client,
            self.queue,
            name,
            lease_ms=lease_ms,
            max_attempts=max_attempts,
            result_ms=60_000,
            **cache,
        )

    def ask(
        self,
        *ids: str,
        api: str = "a",
        lane: Any = "interactive",
        budget_ms: int = 60_000,
        cap: int = 1000,
        cost: int = 10,
        revision: str = "",
        first: bool = False,
        only: str = "",
        published: str = "",
    ) -> list[Any]:
        texts, costs = [f"text {i}" for i in ids], [cost] * len(ids)
        cache = cache_prefix("t", revision) if revision else ""
        command = Enqueue(ids, texts, costs, api, lane, budget_ms, cap, first=first, cache=cache, only=only)
        ((answer,),) = self.worker().run([EnqueueAll([command], published)])
        if isinstance(answer, Full):
            raise QueueFull("full", retry_after_s=answer.waiting / 100)
        return [
            [state.result] if state.kind == "cached" else state.result or state.kind.encode()
            for state in answer.states
        ]

    def cancel(self, *ids: str, api: str = "a") -> int:
        (removed,) = self.worker().run([Cancel(api, ids)])
        return int(removed)

    def sweep(self, max_attempts: int = 3, api: str = "sweeper", memory: Memory = NO_MEMORY) -> Snapshot:
        (snapshot,) = self.worker().run([Sweep(api, max_attempts, memory=memory)])
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def live(self) -> set[str]:
        (records,) = self.worker().run([Workers()])
        return {record.id for record in records}

    def lapse(self) -> None:
        """As if no heartbeat had come for as long as records last."""
        self.client.hset(f"{self.P}:model", mapping={"renewed": 0, "live_until": 0})
        workers = self.client.zrange(f"{self.P}:workers", 0, -1)
        self.client.zadd(f"{self.P}:workers", dict.fromkeys(workers, 1))

    def sweep_with(self, remembered: str, surplus: int, full: int) -> Snapshot:
        """A sweep that evicts from the cache."""
        memory: Any = SimpleNamespace(surplus=surplus, full=full, used=0, limit=0)
        (snapshot,) = self.worker().run([Sweep("sweeper", 3, remembered, memory=memory)])
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def hints(self, api: str = "a") -> list[tuple[str, bytes]]:
        raws = self.client.lrange(f"{self.P}:reply:{api}", 0, -1)
        self.client.delete(f"{self.P}:reply:{api}")
        hints = (hint.partition(b"\n") for raw in raws for hint in raw.split(b"\0"))
        return [(entry.decode(), payload) for entry, _, payload in hints]

    def failed_elsewhere(self, *ids: str) -> None:
        """Makes the next failure of these entries final: another worker has failed on them."""
        for entry in ids:
            self.client.set(f"{self.P}:failed:{entry}", "elsewhere", px=60_000)

    def waiting(self, lane: str = "interactive") -> int:
        return int(self.client.hget(f"{self.P}:waiting", lane) or 0)

    def leftovers(self) -> list[bytes]:
        return leftovers(self.client)


@pytest.fixture
def bench(client: redis.Redis) -> Bench:
    return Bench(client)


def ids_of(claim: Any) -> list[str]:
    return [entry.id for entry in claim.entries]


def test_the_road_of_one_entry_leaves_only_its_result(bench: Bench) -> None:
    assert bench.ask("x") == [b"queued"]
    (entry,) = bench.worker().claim(10, 100, 100).entries
    assert (entry.id, entry.text, entry.attempts, entry.lane, entry.cost) == (
        "x",
        "text x",
        1,
        "interactive",
        10,
    )
    assert 50_000 < entry.remaining_ms <= 60_000
    assert bench.worker().complete([("x", ANSWER)]) == 1
    assert bench.hints() == [("x", ANSWER)]
    assert bench.leftovers() == []
    assert bench.waiting() == 0
    bench.worker().heartbeat([], RECORD, MODEL, 5000)
    assert bench.ask("x") == [ANSWER], "a result that is still there answers at once"


def test_completing_twice_answers_once(bench: Bench) -> None:
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    assert bench.worker().complete([("x", ANSWER)]) == 1
    assert bench.worker().complete([("x", ANSWER)]) == 0
    assert len(bench.hints()) == 1
    bench.worker().run([bench.worker().complete_command([("x", ANSWER)])])
    assert not bench.client.exists(f"{bench.P}:idle"), "the worker has not said that it is"


def test_enqueueing_twice_makes_one_entry(bench: Bench) -> None:
    assert bench.ask("x") == [b"queued"]
    assert bench.ask("x") == [b"joined"]
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]
    assert bench.ask("x") == [b"joined"], "single flight while it runs, too"
    assert bench.worker().claim(10, 100, 100).entries == []


def test_a_result_of_another_revision_than_the_one_that_is_wanted_does_not_answer(bench: Bench) -> None:
    bench.worker().heartbeat((), RECORD, MODEL, ttl_ms=60_000, takeover=True)
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.worker().complete([("x", ANSWER)])
    assert bench.ask("x") == [ANSWER]
    assert bench.ask("x", only="rev") == [ANSWER]
    assert bench.ask("x", only="another") == [b"queued"]
    assert bench.ask("x", only="another") == [b"joined"], "there is one entry for all that wait"
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_a_former_model_does_not_answer_where_no_worker_of_its_successor_has_worked(bench: Bench) -> None:
    """A shard keeps the record of a model until another one's worker works there."""
    old = bench.worker("old")
    old.heartbeat((), RECORD, MODEL, ttl_ms=60_000, takeover=True)
    bench.ask("x")
    old.claim(10, 100, 100)
    old.complete([("x", ANSWER)])
    assert bench.ask("x", published="B") == [ANSWER], "a worker of the former model is still alive"
    old.retire()
    assert bench.ask("x", published="rev") == [ANSWER]
    assert bench.ask("x") == [ANSWER], "the process does not know the model of the service yet"
    assert bench.ask("x", published="B") == [b"queued"]
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"rev"


def test_every_waiting_process_is_told(bench: Bench) -> None:
    bench.ask("x", api="a")
    bench.ask("x", api="b")
    bench.worker().claim(10, 100, 100)
    bench.worker().complete([("x", ANSWER)])
    assert bench.hints("a") == bench.hints("b") == [("x", ANSWER)]


def test_order_is_kept_and_the_claim_is_bounded_in_entries_and_cost(bench: Bench) -> None:
    bench.ask(*(f"x{i}" for i in range(9)))
    assert ids_of(bench.worker().claim(2, 1000, 1000)) == ["x0", "x1"]
    assert ids_of(bench.worker().claim(100, 30, 30)) == ["x2", "x3", "x4"]
    claim = bench.worker().claim(100, 1000, 1000)
    assert ids_of(claim) == ["x5", "x6", "x7", "x8"]
    assert claim.left == 0


def test_a_full_lane_sheds_all_or_nothing_but_joins_are_free(bench: Bench) -> None:
    bench.ask("x0", "x1", cap=25)
    with pytest.raises(QueueFull) as shed:
        bench.ask("y0", "y1", cap=25)
    assert shed.value.retry_after_s == 0.2
    assert bench.client.llen(f"{bench.P}:q") == 2
    assert bench.ask("x0", "x1", cap=25) == [b"joined", b"joined"]
    assert bench.ask("b", lane="bulk", cap=25) == [b"queued"], "the lanes have caps of their own"


def test_one_request_larger_than_the_cap_is_taken_by_an_empty_lane(bench: Bench) -> None:
    assert bench.ask("x", cost=500, cap=25) == [b"queued"]


def test_bulk_waits_for_interactive_but_never_starves(bench: Bench) -> None:
    bench.ask(*(f"b{i}" for i in range(40)), lane="bulk")
    bench.ask(*(f"x{i}" for i in range(40)), cap=10_000)
    lanes = [entry.lane for entry in bench.worker().claim(16, 1000, 1000).entries]
    assert lanes.count("interactive") == 14
    assert lanes.count("bulk") == 2


def test_large_entries_that_go_first_keep_none_from_running(bench: Bench) -> None:
    """One of them fills a batch, and the next is there before the worker claims again."""
    worker = bench.worker()
    bench.ask("bulk", lane="bulk", cost=100)
    bench.ask("other", cost=100)
    claimed: list[str] = []
    for number in range(20):
        bench.ask(f"x{number}", first=True, cost=100)
        claimed += (now := ids_of(worker.claim(16, 100, 100)))
        worker.complete([(entry, ANSWER) for entry in now])
    assert {"bulk", "other"} < set(claimed)
    assert len(claimed) == 20, "one fills a batch"


def test_a_light_client_does_not_overtake_itself(bench: Bench) -> None:
    """What it sent while nothing waited was claimed after all that it sent later, if in time at all."""
    worker = bench.worker()
    bench.ask("old0", "old1", "old2", "old3", first=True, cost=100)
    claimed: list[str] = []
    for number in range(5):
        bench.ask(f"new{number}", first=True, cost=100)
        claimed += ids_of(worker.claim(16, 100, 100))
    assert claimed == ["old0", "old1", "old2", "old3", "new0"]
    assert not bench.client.exists(f"{bench.P}:first")


@pytest.mark.parametrize("together", [False, True])
def test_priority_counts_from_the_first_text_without_it_until_the_lane_is_empty(
    bench: Bench, together: bool
) -> None:
    worker = bench.worker()

    def asked(*requests: tuple[str, bool]) -> list[str]:
        commands = [
            Enqueue([name], [name], [10], "a", "interactive", 9000, 1000, first=one) for name, one in requests
        ]
        for some in [commands] if together else [[command] for command in commands]:
            worker.run([EnqueueAll(some)])
        return ids_of(worker.claim(16, 1000, 1000))

    assert asked(("a", True), ("b", True), ("heavy", False), ("c", True)) == ["a", "b", "c", "heavy"]
    assert asked(("d", True), ("e", False), ("f", True)) == ["d", "f", "e"]
    assert asked(("g", True), ("h", True)) == ["g", "h"]
    bench.ask("bulk", lane="bulk")
    worker.run([EnqueueAll([Enqueue(["bulk"], ["bulk"], [10], "a", "interactive", 9000, 1000)])])
    assert asked(("i", True)) == ["i", "bulk"], "an entry that moves here has no priority, either"
    bench.ask("j", first=True)
    worker.claim(16, 1000, 1000)
    assert not bench.client.exists(f"{bench.P}:first")
    assert bench.waiting() == 0


def test_what_goes_first_leaves_an_eighth_of_a_batch(bench: Bench) -> None:
    """A client with a text more than may go first waited for that one for as long as it sent others."""
    bench.ask("x0", "x1", "x2")
    bench.ask(*(f"first{number}" for number in range(20)), first=True)
    claimed = ids_of(bench.worker().claim(16, 1000, 1000))
    assert claimed == [*(f"first{number}" for number in range(14)), "x0", "x1"]
    claimed = ids_of(bench.worker().claim(16, 1000, 1000))
    assert claimed == [*(f"first{number}" for number in range(14, 20)), "x2"]


@pytest.mark.parametrize("seed", range(6))
def test_texts_with_priority_are_claimed_in_their_order(bench: Bench, seed: int) -> None:
    """Whatever else is asked, cancelled and claimed between them."""
    rng, worker, number = random.Random(seed), bench.worker(), itertools.count()
    waiting: list[str] = []
    with_priority: list[int] = []

    def claim(entries: int, cost: int) -> None:
        claimed = ids_of(worker.claim(entries, cost, 100))
        worker.complete([(name, ANSWER) for name in claimed])
        for name in claimed:
            waiting.remove(name)
            if name.startswith("first"):
                with_priority.append(int(name[5:]))

    for _ in range(60):
        match rng.choices(["ask", "claim", "cancel"], [5, 4, 1])[0]:
            case "ask":
                asked = []
                for _ in range(rng.randint(1, 3)):
                    first = rng.random() < 0.7
                    ids = [f"{'first' if first else 'x'}{next(number)}" for _ in range(rng.randint(1, 4))]
                    waiting += ids
                    terms = ("a", "interactive", 600_000, 10**6)
                    asked.append(Enqueue(ids, ids, [10] * len(ids), *terms, first=first))
                worker.run([EnqueueAll(asked)])
            case "claim":
                claim(rng.randint(1, 16), rng.choice([10, 40, 100]))
            case "cancel" if waiting:
                bench.cancel(waiting.pop(rng.randrange(len(waiting))))
    while waiting:
        claim(16, 1000)
    assert with_priority == sorted(with_priority)


def test_large_interactive_entries_do_not_starve_bulk(bench: Bench) -> None:
    worker = bench.worker()
    bench.ask("b0", "b1", lane="bulk", cost=100)
    bench.ask(*(f"x{number}" for number in range(20)), cost=100, cap=10_000)
    claimed = [ids_of(worker.claim(16, 100, 100)) for _ in range(20)]
    assert claimed.index(["b0"]) == 7
    assert claimed.index(["b1"]) == 15


def test_claims_of_a_worker_that_may_take_no_more_keep_no_list_waiting(bench: Bench) -> None:
    """One that holds many windows claims after each of its batches. The count began anew each time."""
    worker = bench.worker()
    bench.ask("other", cost=100)
    claimed: list[str] = []
    for number in range(8):
        bench.ask(f"x{number}", first=True, cost=100)
        assert ids_of(worker.claim(16, 0, -1, free=False)) == []
        claimed += ids_of(worker.claim(16, 100, 100))
    assert claimed.index("other") == 3, "the eighth claim"


def test_bulk_alone_is_claimed_in_small_pieces(bench: Bench) -> None:
    bench.ask(*(f"b{i}" for i in range(40)), lane="bulk")
    assert len(bench.worker().claim(100, 1000, 50).entries) == 5


def test_a_worker_that_holds_many_windows_gets_no_bulk_even_beside_interactive(bench: Bench) -> None:
    bench.ask(*(f"b{i}" for i in range(40)), lane="bulk")
    assert bench.worker().claim(16, 1000, -1).entries == []
    bench.ask(*(f"x{i}" for i in range(4)), cap=10_000)
    assert ids_of(bench.worker().claim(16, 1000, -1)) == ["x0", "x1", "x2", "x3"]


@pytest.mark.parametrize(
    ("waiting", "cost", "bulk_cost", "most", "taken"),
    [
        pytest.param(141, 1, 1, 200, (140, 20), id="more than fit"),
        pytest.param(100, 1, 1, 200, (100, 13), id="fewer than fit"),
        pytest.param(14, 1, 10, 16, (14, 1), id="as many as fit"),
        pytest.param(1, 80, 5, 200, (1, 2), id="one"),
    ],
)
def test_bulk_gets_an_eighth_beside_interactive(
    bench: Bench, waiting: int, cost: int, bulk_cost: int, most: int, taken: tuple[int, int]
) -> None:
    """Of the batch while others wait for the next one, else of what they cost."""
    bench.ask(*(f"b{i}" for i in range(40)), lane="bulk", cost=bulk_cost)
    bench.ask(*(f"x{i}" for i in range(waiting)), cost=cost)
    lanes = [entry.lane for entry in bench.worker().claim(most, 160, 0).entries]
    assert (lanes.count("interactive"), lanes.count("bulk")) == taken


def test_a_person_lifts_what_a_job_has_queued(bench: Bench) -> None:
    bench.ask("b0", "b1", "b2", lane="bulk")
    assert bench.ask("b2") == [b"joined"]
    assert (bench.waiting("interactive"), bench.waiting("bulk")) == (10, 20)
    assert ids_of(bench.worker().claim(1, 1000, 1000)) == ["b2"]
    rest = bench.worker().claim(10, 1000, 1000)
    assert ids_of(rest) == ["b0", "b1"]
    assert rest.skipped == 1, "its old place in the bulk lane"
    assert (bench.waiting("interactive"), bench.waiting("bulk")) == (0, 0)


def test_a_lease_that_ends_sends_its_entries_to_solo_one_at_a_time(bench: Bench) -> None:
    bench.ask("x0", "x1")
    bench.worker("dead", lease_ms=30).claim(10, 100, 100)
    wait_until(
        lambda: bench.client.zcount(f"{bench.P}:inflight", 0, time.time() * 1000 - 20), "the lease to end"
    )
    assert bench.sweep().recovered == 2
    bench.ask("x2")
    first = bench.worker().claim(10, 100, 100)
    assert ids_of(first) == ["x0"]
    assert first.entries[0].solo
    assert first.entries[0].attempts == 2
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x1"]
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x2"]


def test_a_claim_whose_entry_has_expired_wakes_no_worker(bench: Bench) -> None:
    bench.ask("x")
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    bench.client.delete(f"{bench.P}:entry:x")
    recovered = 0

    def over() -> bool:
        nonlocal recovered
        recovered += bench.sweep().recovered
        return not bench.leftovers()

    wait_until(over, "the lease to end")
    assert recovered == 0


def test_a_suspect_runs_alone_whoever_asks_for_it(bench: Bench) -> None:
    """A job's text that was asked for on a socket as well left the solo list, and ran beside others."""
    bench.ask("x", lane="bulk")
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease to end")
    assert bench.ask("x", "y") == [b"joined", b"queued"]
    assert bench.waiting() == 10
    worker = bench.worker()
    assert [(entry.id, entry.solo) for entry in worker.claim(10, 100, 100).entries] == [("x", True)]
    assert ids_of(worker.claim(10, 100, 100)) == ["y"]
    worker.complete([("x", ANSWER), ("y", ANSWER)])
    assert bench.leftovers() == []


def test_a_heartbeat_keeps_the_lease_and_only_what_is_still_held(bench: Bench) -> None:
    bench.ask("x")
    worker = bench.worker(lease_ms=60_000)
    worker.claim(10, 100, 100)
    for _ in range(3):
        bench.client.zadd(f"{bench.P}:inflight", {"x": 1}, xx=True)
        assert worker.heartbeat(["x", "never claimed"], RECORD, MODEL, 60_000) == 1
        assert bench.sweep().recovered == 0
    worker.complete([("x", ANSWER)])
    assert worker.heartbeat(["x"], RECORD, MODEL, 5000) == 0
    assert bench.leftovers() == []


def test_a_worker_that_comes_back_keeps_the_lease_of_what_it_still_runs(bench: Bench) -> None:
    """Another has claimed the text meanwhile: the first result counts, and neither died of it."""
    bench.ask("x")
    bench.worker("back", lease_ms=1).claim(10, 100, 100)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease to end")
    other = bench.worker("other", lease_ms=100)
    assert ids_of(other.claim(10, 100, 100)) == ["x"]
    back = bench.worker("back", lease_ms=60_000)
    assert back.heartbeat(["x"], RECORD, MODEL, 5000) == 1
    time.sleep(0.15)
    assert bench.sweep().recovered == 0, "one of them will answer it"
    assert bench.worker("back", lease_ms=1).heartbeat(["x"], RECORD, MODEL, 5000) == 1
    other.heartbeat([], RECORD, MODEL, 5000)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease to end after the last heartbeat")
    assert bench.client.hget(f"{bench.P}:claims", "x").endswith(b" "), "both live, so neither died of it"
    assert back.complete([("x", ANSWER)]) == 1
    assert other.complete([("x", ANSWER)]) == 0
    assert bench.hints() == [("x", ANSWER)]
    assert ids_of(bench.worker().claim(10, 100, 100)) == []
    assert bench.leftovers() == []


def test_the_third_death_of_a_run_alone_is_final_and_remembered(bench: Bench) -> None:
    bench.ask("x")
    for attempt in (1, 2, 3, 4):
        (entry,) = bench.worker(f"w{attempt}", lease_ms=1).claim(10, 100, 100).entries
        assert (entry.attempts, entry.solo) == (attempt, attempt > 1)
        time.sleep(0.01)
        bench.sweep()
    ((entry_id, raw),) = bench.hints()
    verdict = decode_result(raw)
    assert entry_id == "x"
    assert isinstance(verdict, Failure)
    assert verdict.code == "poison"
    assert bench.leftovers() == []
    (dead,) = bench.client.lrange(f"{bench.P}:dead", 0, -1)
    assert dead.startswith(b"x poison attempts=3 ")
    assert b"w1" not in dead, "in a batch it was one of several"
    assert bench.ask("x") == [raw], "asking again does not end more workers"


def test_the_end_of_a_worker_speaks_against_one_text_at_most(bench: Bench) -> None:
    """Found by chaos: replies to claims were lost, and dead workers had several texts of the solo list."""
    bench.ask("x", "y", "z")
    bench.worker("w0", lease_ms=1).claim(10, 100, 100)
    time.sleep(0.01)
    for name in ("w1", "w2", "w3"):
        worker = bench.worker(name, lease_ms=1500)  # for longer than the three claims take
        assert [ids_of(worker.claim(10, 100, 100)) for _ in "xyz"] == [["x"], ["y"], ["z"]]
        wait_until(lambda: bench.sweep() and not bench.client.zcard(f"{bench.P}:inflight"), "leases to end")
    (dead,) = bench.client.lrange(f"{bench.P}:dead", 0, -1)
    assert dead.startswith(b"z poison attempts=3 ")
    assert bench.client.lrange(f"{bench.P}:solo", 0, -1) == [b"x", b"y"]


def test_a_beat_under_way_during_a_claim_does_not_acquit(bench: Bench) -> None:
    """Found by fault 10 on a busy machine: the heartbeat did not yet include the fatal text."""
    bench.ask("x")
    for name in ("w0", "w1", "w2", "w3"):
        worker = bench.worker(name, lease_ms=200)
        worker.claim(10, 100, 100)
        worker.heartbeat([], RECORD, MODEL, 1)
        wait_until(lambda: bench.sweep().recovered == 1 or not bench.leftovers(), "the lease to end")
    assert bench.client.llen(f"{bench.P}:dead") == 1


def test_who_has_its_hands_full_gets_nothing_while_a_text_must_run_alone(bench: Bench) -> None:
    bench.ask("x")
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    time.sleep(0.01)
    bench.ask("y")
    claim = bench.worker().claim(10, 100, 100, free=False)
    assert (claim.entries, claim.left) == ([], 2)
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]
    assert ids_of(bench.worker().claim(10, 100, 100, free=False)) == ["y"]


def test_a_worker_dies_but_once_however_often_it_lost_the_entry(bench: Bench) -> None:
    """Found by chaos: replies to claims were lost thrice, then that worker died, and the text was buried."""
    bench.ask("x")
    for _ in range(4):
        assert ids_of(bench.worker("lossy", lease_ms=1).claim(10, 100, 100)) == ["x"]
        time.sleep(0.01)
        assert bench.sweep().recovered == 1
    assert bench.client.llen(f"{bench.P}:dead") == 0


def test_a_worker_that_outlived_the_lease_is_never_counted(bench: Bench) -> None:
    """Found by chaos: it had lost a reply to a claim, lived on, and was killed for another reason later."""
    bench.ask("x")
    for name in ("w0", "w1", "w2", "w3", "w4"):
        worker = bench.worker(name, lease_ms=5)
        worker.claim(10, 100, 100)
        time.sleep(0.01)
        worker.heartbeat([], RECORD, MODEL, 5000)
        assert bench.sweep().recovered == 1
        worker.retire()
    assert bench.client.llen(f"{bench.P}:dead") == 0


def test_a_late_beat_is_waited_for_before_a_text_is_called_poison(bench: Bench) -> None:
    bench.ask("x")
    for name in ("w0", "w1", "w2"):
        bench.worker(name, lease_ms=1).claim(10, 100, 100)
        time.sleep(0.01)
        bench.sweep()
    late = bench.worker("w3", lease_ms=20)
    late.heartbeat([], RECORD, MODEL, 5000)
    late.claim(10, 100, 100)
    time.sleep(0.03)
    assert bench.sweep().recovered == 0
    assert bench.client.zcard(f"{bench.P}:inflight") == 1, "no other worker gets it meanwhile"
    late.heartbeat([], RECORD, MODEL, 5000)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease to end")
    assert bench.client.llen(f"{bench.P}:dead") == 0


def test_a_failure_answers_who_waited_and_nobody_later(bench: Bench) -> None:
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.failed_elsewhere("x")
    bench.worker().complete([("x", FAILURE)])
    assert bench.hints() == [("x", FAILURE)]
    assert bench.ask("x") == [b"queued"], "no negative caching"


def test_a_refused_text_is_noted_where_it_was_refused_only(bench: Bench) -> None:
    """An API process does not know whether the record still exists."""
    note = NoteRefused("x", "key:web", "text x")
    assert bench.worker().run([note]) == [0]
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.failed_elsewhere("x")
    bench.worker().complete([("x", FAILURE)])
    assert bench.worker().run([note]) == [1]
    kept_ms = [bench.client.pttl(f"{bench.P}:{key}") for key in ("refused", "refusals", "refused:x")]
    assert max(kept_ms) - min(kept_ms) < 60_000, "a text as long as its record"


def test_finding_05_a_failure_is_final_once_a_second_worker_failed(bench: Bench) -> None:
    here, there = bench.worker("here"), bench.worker("there")
    for worker in (here, there):
        worker.heartbeat([], RECORD, MODEL, 60_000)
    bench.ask("x", "y")
    here.claim(10, 100, 100)
    for _ in range(2):  # a client library may send it twice
        assert here.complete([("x", FAILURE), ("y", FAILURE)]) == 0
    assert bench.hints() == []
    refused = here.claim(10, 100, 100)
    assert (ids_of(refused), refused.left, refused.skipped) == ([], 0, 0), "it is left to the other worker"
    for entry, result in (("x", FAILURE), ("y", ANSWER)):
        (claimed,) = there.claim(10, 100, 100).entries
        assert (claimed.id, claimed.solo) == (entry, True)
        assert there.complete([(entry, result)]) == 1
        assert bench.hints() == [(entry, result)]
    assert bench.leftovers() == []
    assert bench.waiting() == 0


def test_finding_05_a_worker_alone_tries_again_until_the_budget_ends(bench: Bench) -> None:
    """A try that is due just before the end may come too late on a busy machine: then it is asked again."""
    alone = bench.worker("alone")
    alone.heartbeat([], RECORD, MODEL, 60_000)
    for number in range(3):
        text, runs, began = f"x{number}", 0, time.monotonic()
        bench.ask(text, budget_ms=2_000)
        while not (hints := bench.hints()):
            if ids_of(alone.claim(10, 100, 100)):
                runs += 1
                alone.complete([(text, FAILURE)])
            assert time.monotonic() - began < 30
            time.sleep(0.005)
            alone.heartbeat([], RECORD, MODEL, 60_000)
        assert 2 <= runs <= 10
        assert time.monotonic() - began > 1
        assert bench.leftovers() == []
        if hints == [(text, FAILURE)]:
            return
    raise AssertionError(f"the budget ended in the queue three times: {hints}")


def test_finding_05_a_worker_that_failed_on_a_text_and_ends_did_not_die_of_it(bench: Bench) -> None:
    for number in range(4):
        worker = bench.worker(f"w{number}", lease_ms=20)
        worker.heartbeat([], RECORD, MODEL, 60_000)
        if number == 0:
            bench.ask("x", budget_ms=60_000)
        claim = wait_until(lambda worker=worker: worker.claim(10, 100, 100).entries, "the entry")
        assert [entry.id for entry in claim] == ["x"]
        bench.client.delete(f"{bench.P}:failed:x")
        worker.complete([("x", FAILURE)])
        worker.retire()
    assert bench.client.llen(f"{bench.P}:dead") == 0
    assert bench.hints() == []


def test_an_entry_past_its_budget_is_dropped_at_the_claim_and_its_callers_told(bench: Bench) -> None:
    bench.ask("late", budget_ms=1)
    bench.ask("x")
    time.sleep(0.01)
    claim = bench.worker().claim(10, 100, 100)
    assert ids_of(claim) == ["x"]
    assert claim.expired == 1
    ((entry_id, raw),) = bench.hints()
    failure = decode_result(raw)
    assert isinstance(failure, Failure)
    assert (entry_id, failure.code) == ("late", "budget_exceeded")
    assert bench.ask("late") == [b"queued"], "the deadline was its callers', not the text's"


def test_the_sweep_drops_what_is_past_its_budget_with_no_worker_alive(bench: Bench) -> None:
    bench.ask("late", "later", budget_ms=1)
    time.sleep(0.01)
    bench.sweep()
    assert all(b'"budget_exceeded"' in result for _, result in bench.hints())
    assert bench.leftovers() == []
    assert bench.waiting() == 0


def test_an_expired_entry_with_two_places_is_taken_off_the_cost_once(bench: Bench) -> None:
    """Found by the search: its cost was subtracted for each place, so that the lane seemed to be emptier."""
    bench.ask("x", "stays", budget_ms=10_000)
    for _ in range(2):  # the reply was lost, and the API process asked again
        bench.ask("late", cost=7, budget_ms=1, first=True)
    time.sleep(0.01)
    claimed = bench.worker().claim(10, 1, 1)
    assert (ids_of(claimed), claimed.expired) == (["x"], 1)
    assert bench.waiting() == 10
    assert len(bench.hints()) == 1


def test_one_process_sweeps_and_the_others_read_its_snapshot(bench: Bench) -> None:
    bench.worker("w").heartbeat([], RECORD, MODEL, 60_000, takeover=True)
    bench.ask("x", "y")
    first = bench.sweep(api="first", memory=Memory(3, 9))
    assert (first.swept, first.workers, first.rate, first.interactive.entries) == (True, 1, 100.0, 2)
    bench.ask("z", budget_ms=1)
    bench.worker("v").heartbeat([], RECORD, MODEL, 60_000)
    time.sleep(0.01)
    second = bench.sweep(api="second")
    assert second == replace(first, swept=False, interactive=second.interactive)
    assert second.interactive.entries == 2, "what the first one found"
    assert second.memory == Memory(3, 9)
    again = bench.sweep(api="first")
    assert (again.workers, again.rate, again.interactive.entries, again.memory) == (2, 200.0, 3, Memory(3, 9))


def test_another_process_sweeps_once_the_sweeper_is_gone(bench: Bench) -> None:
    worker = bench.worker("w", lease_ms=200)
    worker.heartbeat([], RECORD, MODEL, 60_000)
    bench.sweep(api="first")
    bench.ask("x")
    worker.claim(10, 100, 100)
    wait_until(lambda: bench.sweep(api="second").recovered == 1, "the second one to sweep", 10)
    assert not bench.sweep(api="first").swept


def test_without_workers_every_process_looks_itself(bench: Bench) -> None:
    assert bench.sweep(api="first").workers == 0
    bench.worker("w").heartbeat([], RECORD, MODEL, 60_000)
    second = bench.sweep(api="second")
    assert (second.swept, second.workers) == (True, 1)


def test_the_snapshot_says_how_many_workers_fell_back_and_why(bench: Bench) -> None:
    fallen = {"fallback": "bf16: another label\nsecond line", "arithmetic": "f32"}
    bench.worker("sound").heartbeat([], RECORD, MODEL, 60_000)
    assert bench.sweep().fallback is None
    bench.worker("fallen").heartbeat([], RECORD | fallen, MODEL, 60_000)
    assert bench.sweep().fallback == Fallback(1, "fallen", "stub", "f32", "f32", fallen["fallback"])


def test_texts_are_counted_although_workers_come_and_go(bench: Bench) -> None:
    def heartbeat(name: str, texts: int) -> int:
        bench.worker(name).heartbeat([], RECORD | {"texts": texts}, MODEL, 60_000)
        return bench.sweep().worked

    assert heartbeat("a", 100) == 0, "what it did before Redis knew it"
    assert heartbeat("a", 110) == 10
    assert heartbeat("b", 5) == 10
    bench.client.delete(f"{bench.P}:worker:a")
    assert heartbeat("b", 9) == 14
    assert heartbeat("a", 3) == 14, "it has started again"
    assert heartbeat("a", 4) == 15


def test_a_short_heartbeat_needs_what_the_last_one_published(bench: Bench) -> None:
    worker = bench.worker("w")
    heartbeat = partial(worker.heartbeat, ttl_ms=60_000)
    assert heartbeat([], RECORD, MODEL) == 0
    bench.ask("x")
    worker.claim(10, 100, 100)
    assert worker.run([SendHeartbeat("w", 2000, 60_000, ["x"], {}, {})]) == [HeartbeatReply(1)]
    assert bench.client.hget(f"{bench.P}:model", "taken") == b"0", "it takes over from no other model"
    bench.client.flushall()
    assert worker.run([SendHeartbeat("w", 2000, 60_000, ["x"], {}, {})]) == [HeartbeatReply(-1)]
    assert bench.live() == set()
    assert heartbeat([], RECORD, MODEL) == 0
    assert bench.live() == {"w"}
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"rev"


def test_a_short_heartbeat_brings_back_a_model_whose_successor_is_gone(bench: Bench) -> None:
    old, new = bench.worker("old"), bench.worker("new")
    old.heartbeat([], RECORD, MODEL, 60_000)
    new.heartbeat([], RECORD | {"revision": "B"}, MODEL | {"revision": "B"}, 60_000, takeover=True)
    assert old.run([SendHeartbeat("old", 2000, 60_000, [], {}, {})]) == [HeartbeatReply(0)]
    bench.lapse()
    assert old.run([SendHeartbeat("old", 2000, 60_000, [], {}, {})]) == [HeartbeatReply(-1)]


def test_a_short_heartbeat_renews_a_model_of_its_own_however_late_it_comes(bench: Bench) -> None:
    worker = bench.worker("w")
    worker.heartbeat([], RECORD, MODEL, 60_000, takeover=True)
    bench.lapse()
    assert worker.run([SendHeartbeat("w", 2000, 60_000, [], {}, {})]) == [HeartbeatReply(0)]


def test_a_joiner_with_a_shorter_budget_changes_nothing_for_the_first(bench: Bench) -> None:
    bench.ask("x", budget_ms=10_000)
    bench.ask("x", api="b", budget_ms=1)
    time.sleep(0.01)
    (entry,) = bench.worker().claim(10, 100, 100).entries
    assert entry.remaining_ms > 9_000


def test_a_joiner_with_a_longer_budget_extends_it(bench: Bench) -> None:
    bench.ask("x", budget_ms=50)
    bench.ask("x", api="b", budget_ms=10_000)
    (entry,) = bench.worker().claim(10, 100, 100).entries
    assert entry.remaining_ms > 9_000


def test_a_text_that_ran_alone_is_returned_ahead_of_others_that_must(bench: Bench) -> None:
    lost, first, second = bench.worker("lost", lease_ms=50), bench.worker("v"), bench.worker("w")
    bench.ask("x", "y")
    assert ids_of(lost.claim(10, 100, 100)) == ["x", "y"]
    time.sleep(0.1)
    (entry,) = first.claim(10, 100, 100).entries
    assert (entry.solo, first.release([entry.id])) == (True, 1)
    assert ids_of(second.claim(10, 100, 100)) == [entry.id]


def test_a_refused_text_is_listed_with_the_code_of_its_failure(bench: Bench) -> None:
    bench.ask("x")
    for worker in (bench.worker("v"), bench.worker("w")):
        worker.heartbeat([], RECORD, MODEL, 60_000)
    for worker in (bench.worker("v"), bench.worker("w")):
        worker.claim(10, 100, 100)
        worker.complete([("x", Failure("of_its_own", "no").encode())])
    refused = json.loads(bench.client.hget(f"{bench.P}:refusals", "x"))
    assert (refused["code"], refused["workers"]) == ("of_its_own", "v w")


def test_cancelling_removes_the_entry_when_nobody_else_waits(bench: Bench) -> None:
    bench.ask("x", "y")
    bench.ask("x", api="b")
    assert bench.cancel("x", "y") == 1
    assert bench.waiting() == 10
    claim = bench.worker().claim(10, 100, 100)
    assert ids_of(claim) == ["x"]
    assert claim.skipped == 0, "a tombstone that is counted is not a foreign value"
    assert bench.waiting() == 0


def test_a_void_place_goes_without_a_worker_and_may_be_filled_again(bench: Bench) -> None:
    bench.ask("x", "y")
    bench.cancel("x", "y")
    bench.sweep()
    assert bench.leftovers() == []
    bench.ask("x")
    bench.cancel("x")
    assert bench.ask("x") == [b"queued"]
    claim = bench.worker().claim(10, 100, 100)
    assert (ids_of(claim), claim.left, claim.skipped) == (["x"], 0, 0)
    assert bench.worker().complete([("x", ANSWER)]) == 1
    assert bench.leftovers() == []


def test_a_void_place_excuses_no_foreign_bytes_once_it_is_gone(bench: Bench) -> None:
    bench.ask("x")
    bench.cancel("x")
    bench.sweep()
    bench.client.rpush(f"{bench.P}:q", b"unknown")
    assert bench.worker().claim(10, 100, 100).skipped == 1


def test_a_void_place_behind_what_waits_is_not_forgotten(bench: Bench) -> None:
    bench.ask("x", "y")
    bench.ask("z", "zz", lane="bulk")
    bench.cancel("y")
    bench.sweep()
    assert bench.worker().claim(10, 100, 100).skipped == 0


def test_cancelling_searches_no_lane(bench: Bench) -> None:
    bench.ask(*(f"x{i}" for i in range(1200)), cost=1, cap=10_000)
    assert bench.cancel(*(f"x{i}" for i in range(1100, 1200))) == 100
    assert bench.client.llen(f"{bench.P}:q") == 1200
    assert bench.waiting() == 1100
    claimed = [entry for _ in range(4) for entry in bench.worker().claim(400, 4000, 4000).entries]
    assert len(claimed) == 1100
    assert bench.client.llen(f"{bench.P}:q") == 0


def test_cancelling_what_runs_lets_it_finish(bench: Bench) -> None:
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    assert bench.cancel("x") == 0
    assert bench.worker().complete([("x", ANSWER)]) == 1
    assert bench.hints() == []
    assert bench.leftovers() == []


def test_a_stopping_worker_gives_back_in_order_and_nothing_is_charged(bench: Bench) -> None:
    bench.ask("x0", "x1", "x2")
    bench.worker().claim(2, 100, 100)
    assert bench.worker().release(["x0", "x1"]) == 2
    assert bench.waiting() == 30
    claim = bench.worker().claim(10, 100, 100)
    assert ids_of(claim) == ["x0", "x1", "x2"]
    assert [entry.attempts for entry in claim.entries] == [1, 1, 1]
    assert bench.worker().release(["never claimed"]) == 0


def test_a_suspect_that_is_given_back_is_not_charged_either(bench: Bench) -> None:
    bench.ask("x")
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    wait_until(lambda: bench.sweep().recovered == 1, "the lease to end")
    for _ in range(3):
        (entry,) = bench.worker().claim(10, 100, 100).entries
        assert (entry.attempts, entry.solo) == (2, True)
        assert bench.worker().release(["x"]) == 1


def test_a_late_result_of_a_dead_worker_is_as_good_as_any(bench: Bench) -> None:
    bench.ask("x")
    bench.worker("slow", lease_ms=1).claim(10, 100, 100)
    time.sleep(0.01)
    bench.sweep()
    assert bench.worker("slow").complete([("x", ANSWER)]) == 1
    claim = bench.worker().claim(10, 100, 100)
    assert claim.entries == []
    assert claim.skipped == 1
    assert bench.hints() == [("x", ANSWER)]
    assert bench.leftovers() == []


def test_a_result_for_an_entry_that_was_queued_anew_takes_its_cost_along(bench: Bench) -> None:
    bench.ask("x")
    assert bench.worker("from before a data loss").complete([("x", ANSWER)]) == 1
    assert bench.waiting() == 0


def test_foreign_bytes_are_skipped_and_counted(bench: Bench) -> None:
    bench.client.rpush(f"{bench.P}:q", b"\xff\x00", b"unknown", b"")
    bench.client.hset(f"{bench.P}:entry:oddly typed", "a", "hash")
    bench.client.set(f"{bench.P}:entry:odd", b"a string")
    bench.client.set(f"{bench.P}:entry:bad text", b"%d interactive 1 0 - api\n\xff" % 10**15)
    bench.client.set(f"{bench.P}:entry:cut off", b"%d interactive 1 0 " % 10**15)
    bench.client.rpush(f"{bench.P}:q", b"oddly typed", b"odd", b"bad text", b"cut off")
    bench.ask("x")
    claim = bench.worker().claim(10, 100, 100)
    assert ids_of(claim) == ["x"]
    assert claim.skipped == 7


def test_what_stands_in_the_place_of_an_entry_and_is_none_is_written_over(bench: Bench) -> None:
    bench.client.set(f"{bench.P}:entry:x", b"%d interactive 1 0 " % 10**15)
    assert bench.ask("x") == [b"queued"]
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_what_stands_in_the_place_of_an_entry_and_is_none_has_no_callers(bench: Bench) -> None:
    for number, found in enumerate((b"a string", b"two\nlines", b"%d interactive 1 0 " % 10**15)):
        bench.client.set(f"{bench.P}:entry:odd{number}", found)
    bench.client.hset(f"{bench.P}:entry:odd3", "a", "hash")
    bench.ask("x")
    bench.worker().claim(10, 100, 100)
    bench.worker().complete([(entry, ANSWER) for entry in ("odd1", "x", "odd0", "odd1", "odd2", "odd3")])
    assert bench.hints() == [("x", ANSWER)]
    assert bench.leftovers() == []


def test_an_empty_lane_has_no_cost_whatever_was_lost(bench: Bench) -> None:
    bench.ask("x", "y")
    bench.client.delete(f"{bench.P}:q", f"{bench.P}:entry:x", f"{bench.P}:entry:y")
    assert bench.waiting() == 20
    bench.sweep()
    assert bench.waiting() == 0


def idle_workers(bench: Bench, *names: str) -> list[HeartbeatQueue]:
    """Live workers that have found nothing to do. The first one has been idle for longest."""
    workers = [bench.worker(name) for name in names]
    for at, worker in enumerate(workers):
        worker.heartbeat([], RECORD, MODEL, 5000, takeover=True)
        assert not worker.claim(10, 100, 100, idle_ms=1000 * (len(names) - at)).entries
    return workers


def woken(*workers: HeartbeatQueue) -> list[str]:
    return [worker.worker for worker in workers if worker.wait(0.01)]


def test_one_text_wakes_the_worker_that_was_busy_last(bench: Bench) -> None:
    workers = idle_workers(bench, "one", "two", "three")
    assert woken(*workers) == []
    bench.ask("a")
    assert woken(*workers) == ["three"]
    bench.ask("b", lane="bulk")
    assert woken(*workers) == ["two"], "the last one has not claimed yet"
    assert ids_of(workers[2].claim(10, 100, 100)) == ["a", "b"]
    assert workers[2].complete([("a", ANSWER), ("b", ANSWER)], idle=True) == 2
    bench.ask("c")
    assert woken(*workers) == ["three"]


def test_as_many_workers_are_woken_as_the_cost_needs(bench: Bench) -> None:
    workers = idle_workers(bench, *(f"w{number}" for number in range(5)))
    bench.ask("a", "b", cost=600, cap=10_000)
    assert len(woken(*workers)) == 3


def test_a_claim_that_leaves_entries_wakes_another_worker(bench: Bench) -> None:
    workers = idle_workers(bench, "one", "two", "three")
    bench.ask("a", "b", "c")
    assert woken(*workers) == ["three"]
    assert ids_of(workers[2].claim(1, 100, 100)) == ["a"]
    assert woken(*workers) == ["two"]
    assert ids_of(workers[1].claim(10, 100, 100)) == ["b", "c"]
    assert woken(*workers) == []


def test_each_text_of_a_dead_worker_wakes_another(bench: Bench) -> None:
    """Each runs alone, so one worker would run them one after the other."""
    workers = idle_workers(bench, "one", "two", "three")
    bench.ask("a", "b")
    assert woken(*workers) == ["three"]
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    wait_until(lambda: bench.sweep().recovered == 2, "the leases to end")
    assert woken(*workers) == ["one", "two"]


def test_a_worker_that_was_busy_finds_what_came_meanwhile(bench: Bench) -> None:
    (worker,) = idle_workers(bench, "one")
    bench.ask("a")
    assert woken(worker) == ["one"]
    worker.claim(10, 100, 100)
    bench.ask("b")
    assert woken(worker) == []
    assert worker.complete([("a", ANSWER)], idle=True) == 1
    assert woken(worker) == ["one"]


def test_workers_that_have_ended_are_not_woken(bench: Bench) -> None:
    workers = idle_workers(bench, "one", "two", "three")
    workers[2].retire()
    bench.ask("a")
    assert woken(*workers) == ["two"]
    bench.client.zrem(f"{bench.P}:workers", "one")  # it was killed, and its record has expired
    bench.ask("b")
    assert woken(*workers) == []


def test_a_lost_wake_up_is_replaced_while_another_worker_is_idle(bench: Bench) -> None:
    first, second = idle_workers(bench, "one", "two")
    wake = Wake()
    assert first.run([wake]) == [(0, 0)], "nothing waits"
    bench.ask("a")
    assert first.run([wake]) == [(0, 0)], "both have been woken"
    assert woken(first, second) == ["one", "two"]
    time.sleep(0.01)
    (waking,) = first.run([wake])
    assert waking.idle == -1, "none is left"
    assert 10 <= waking.oldest_ms < 10_000


def test_a_sweep_wakes_a_worker_only_if_something_waits(bench: Bench) -> None:
    (worker,) = idle_workers(bench, "one")
    bench.sweep()
    assert woken(worker) == []
    bench.ask("a")
    assert woken(worker) == ["one"], "and its wake-up is lost"
    assert not worker.claim(0, 100, 100, idle_ms=0).entries
    woken(worker)
    bench.sweep()
    assert woken(worker) == ["one"]


@pytest.mark.parametrize("lane", ["interactive", "solo"])
def test_a_sweep_wakes_a_worker_for_what_waits_in_two_lanes(bench: Bench, lane: str) -> None:
    (worker,) = idle_workers(bench, "one")
    bench.ask("a")
    if lane == "solo":
        bench.worker("dead", lease_ms=1).claim(10, 100, 100)
        wait_until(lambda: bench.sweep().recovered == 1, "the lease to end")
    bench.ask("b", lane="bulk" if lane == "interactive" else "interactive")
    while woken(worker):
        pass
    bench.client.zadd(f"{bench.P}:idle", {"one": 1})
    bench.sweep()
    assert woken(worker) == ["one"]


def test_an_enqueue_says_whether_there_was_a_worker_to_wake(bench: Bench) -> None:
    (one, _) = idle_workers(bench, "one", "two")
    enqueues = [Enqueue([text], [text], [10], "a", "interactive", 10_000, 1000) for text in "abc"]
    assert [accepted.idle for (accepted,) in one.run([EnqueueAll([each]) for each in enqueues])] == [1, 0, -1]


def test_requests_of_one_call_are_enqueued_as_if_each_had_its_own(bench: Bench) -> None:
    (worker,) = idle_workers(bench, "one")
    bench.ask("old", lane="bulk")
    worker.claim(10, 100, 100)
    result = Prediction(fragment(("N", "P"), (0.5, 0.5)), MODEL["revision"], 3).encode()
    worker.complete([("old", result)])

    def request(*ids: str, lane: Any = "interactive", cap: int = 25, **terms: Any) -> Enqueue:
        return Enqueue(ids, ids, [10] * len(ids), "a", lane, 10_000, cap, **terms)

    requests = [
        request("a", "b", trace="t1"),
        request("c"),
        request("d", "old", cap=1000, first=True),
        request("e", lane="bulk"),
    ]
    (answers,) = worker.run([EnqueueAll(requests)])
    kinds = [answer.waiting if isinstance(answer, Full) else [*answer.states] for answer in answers]
    old = State("known", result)
    queued = State("queued")
    assert kinds == [[queued] * 2, 20, [queued, old], [queued]], "only the second one found the lane full"
    assert bench.client.hmget(f"{bench.P}:waiting", "interactive", "bulk") == [b"30", b"10"]
    claimed = worker.claim(10, 100, 100)
    assert [(entry.id, entry.lane, entry.trace) for entry in claimed.entries] == [
        ("d", "interactive", ""),
        ("a", "interactive", "t1"),
        ("b", "interactive", "t1"),
    ], "priority goes before what this call has enqueued, and bulk entries have a share"


def test_what_bulk_leaves_of_its_share_goes_to_interactive_texts(bench: Bench) -> None:
    bench.ask(*map(str, range(20)))
    bench.ask("bulk", lane="bulk")
    claimed = ids_of(bench.worker().claim(16, 1000, 1000))
    assert claimed == [*map(str, range(14)), "bulk", "14"]


def test_a_text_that_failed_wakes_one_other_worker(bench: Bench) -> None:
    workers = idle_workers(bench, "one", "two", "three", "four")
    bench.ask("x")
    assert woken(*workers) == ["four"]
    workers[3].claim(10, 100, 100)
    workers[3].complete([("x", FAILURE)])
    assert woken(*workers) == ["three"]


def test_a_worker_that_broke_hands_over_every_text_that_may_be_the_cause(bench: Bench) -> None:
    bench.ask("x", "y", "z")
    broken, other = bench.worker("broken"), bench.worker("other")
    broken.claim(10, 100, 100)
    broken.retire(["x", "y"])
    time.sleep(0.01)
    alone = [ids_of(other.claim(10, 100, 100)) for _ in range(3)]
    assert sorted(alone) == [[], ["x"], ["y"]], "the third one keeps its lease"


def test_batches_stay_small_for_a_second_after_one_with_priority(bench: Bench) -> None:
    """More such texts are likely, and they would wait for the batch to end."""
    bench.ask(*map(str, range(25)))
    bench.ask("first", first=True)
    claimed = [ids_of(bench.worker().claim(10, 100, 100)) for _ in range(2)]
    assert claimed == [["first", "0", "1"], ["2", "3", "4", "5", "6"]]
    time.sleep(1.1)
    assert len(ids_of(bench.worker().claim(10, 100, 100))) == 10


def test_an_idle_worker_is_lent_to_another_shard_and_claims_first_at_home(bench: Bench) -> None:
    one, two = idle_workers(bench, "one", "two")
    assert one.run([Lend(3, 50)]) == [1], "the other one is idle still"
    assert woken(one, two) == ["two"]
    home = replace(two.claim_command(10, 100, 100, idle_ms=0), helped="-")
    note = two.run([home])[0].note
    assert note.split()[0] == "3"
    assert two.run([replace(home, helped=note)])[0].note == "", "it needed no help"
    assert one.run([Lend(3, 0), Lend(5, 500)]) == [1, 0]
    assert two.run([home])[0].note.split()[0] == "5", "its first entry has waited for longer"
    assert two.claim(10, 100, 100).note == "", "a worker that knows one shard only"


def test_a_worker_is_told_of_a_shard_that_asks_again_while_it_waits(bench: Bench) -> None:
    """Its claim was sent before the shard asked, and says that the shard needs no help."""
    (worker,) = idle_workers(bench, "one")
    home = replace(worker.claim_command(10, 100, 100, idle_ms=0), helped="-")
    assert worker.run([Lend(3, 50)]) == [0]
    note = worker.run([home])[0].note
    assert worker.run([replace(home, helped=note), Lend(3, 0)])[1] == 0
    assert worker.run([replace(home, helped=note)])[0].note.split()[0] == "3"


def test_a_worker_that_leaves_to_help_is_not_woken_at_home(bench: Bench) -> None:
    (worker,) = idle_workers(bench, "one")
    home = replace(worker.claim_command(10, 100, 100, idle_ms=0), helped="-")
    worker.run([Lend(3, 50)])
    assert worker.run([home])[0].note
    enqueue = Enqueue(["a"], ["a"], [10], "a", "interactive", 10_000, 1000)
    ((accepted,),) = worker.run([EnqueueAll([enqueue])])
    assert accepted.idle == -1


def test_another_shard_goes_first_only_if_it_has_waited_for_longer(bench: Bench) -> None:
    (worker,) = idle_workers(bench, "one")
    home = replace(worker.claim_command(1, 100, 100), helped="-")
    bench.ask("a", "b")
    worker.run([Lend(3, 90)])
    assert worker.run([home])[0].note == ""
    worker.run([Lend(3, 5000)])
    claimed = worker.run([home])[0]
    assert (len(claimed.entries), claimed.note.split()[0]) == (1, "3")


@pytest.mark.parametrize(("helps", "asked"), [(True, True), (True, False), (False, True)])
def test_a_worker_that_falls_idle_is_woken_for_a_shard_that_needs_help(
    bench: Bench, helps: bool, asked: bool
) -> None:
    worker = bench.worker("one", helps=helps)
    worker.heartbeat((), RECORD, MODEL, 5000, takeover=True)
    bench.ask("a")
    worker.claim(10, 100, 100)
    if asked:
        assert worker.run([Lend(3, 0)]) == [-1], "it is busy"
    worker.complete([("a", ANSWER)], idle=True)
    assert woken(worker) == (["one"] if helps and asked else [])


def test_the_queue_looks_for_long_lived_results_of_one_revision(bench: Bench) -> None:
    bench.client.set("millrace:cache:2:t:A:x", b"of A")
    bench.client.set("millrace:cache:2:t:B:y", b"of B")
    bench.worker().heartbeat([], RECORD, MODEL, 5000)
    bench.client.set(f"{bench.P}:res:z", ANSWER)
    assert bench.ask("x", "y", "z", revision="A") == [[b"of A"], b"queued", ANSWER]
    assert bench.ask("x", "y", revision="B") == [b"queued", [b"of B"]]
    assert bench.ask("x") == [b"joined"], "where none is named, none is looked for"
    assert bench.ask("x", revision="A") == [[b"of A"]], "what is known need not be waited for"
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["y", "x"]


def test_what_is_known_needs_no_room_in_the_queue(bench: Bench) -> None:
    bench.ask("waits", cap=10)
    bench.client.set("millrace:cache:2:t:A:x", b"known")
    assert bench.ask("x", cap=10, revision="A") == [[b"known"]]
    with pytest.raises(QueueFull):
        bench.ask("x", "new", cap=10, revision="A")
    assert bench.waiting() == 10


def test_results_are_remembered_as_they_are_completed_but_no_failure_is(bench: Bench) -> None:
    worker = bench.worker(revision="A", cache_ms=100_000)
    bench.ask("x", "y")
    claimed = worker.claim(10, 100, 100)
    bench.failed_elsewhere("y")
    good, bad = ANSWER, FAILURE
    assert worker.complete(zip(ids_of(claimed), (good, bad), strict=True)) == 2
    assert bench.client.keys("millrace:cache:*") == [b"millrace:cache:2:t:A:x"]
    assert bench.client.get("millrace:cache:2:t:A:x") == good
    assert 89_000 < bench.client.pttl("millrace:cache:2:t:A:x") <= 110_000
    assert bench.ask("x", revision="A") == [[good]]


def test_a_refused_cache_is_given_up_and_nothing_else(bench: Bench) -> None:
    worker = bench.worker(revision="A", cache_ms=1000)
    assert worker.read_completed(Completed(3, "OOM command not allowed")) == 3
    assert worker.remembers
    assert worker.read_completed(Completed(2, "keys in different slots")) == 2
    assert not worker.remembers
    bench.ask("x")
    worker.claim(10, 100, 100)
    assert worker.complete([("x", ANSWER)]) == 1
    assert bench.client.keys("millrace:cache:*") == []


def claim_in_advance(queue: HeartbeatQueue, block_s: float = 0.01) -> Claimed:
    return queue.wait_and_claim(block_s, queue.claim_command(10, 100, 100, waits=True, idle_ms=0))


def test_a_claim_sent_in_advance_runs_when_work_comes(bench: Bench) -> None:
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 5000)
    assert claim_in_advance(worker) == Claimed()
    with ThreadPoolExecutor(1) as waiting:
        claimed = waiting.submit(claim_in_advance, worker, 10.0)
        time.sleep(0.05)
        assert not claimed.done()
        bench.ask("x", "y")
        assert ids_of(claimed.result(5)) == ["x", "y"]


def test_a_claim_sent_in_advance_survives_a_flush_of_scripts(bench: Bench) -> None:
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 5000)
    bench.ask("x")
    bench.client.script_flush()
    assert ids_of(claim_in_advance(worker)) == ["x"]


def test_a_claim_sent_in_advance_by_a_worker_since_frozen_takes_nothing(bench: Bench) -> None:
    frozen = bench.worker("frozen", lease_ms=500)
    bench.ask("x")
    assert ids_of(claim_in_advance(frozen)) == [], "it has never sent a heartbeat"
    frozen.heartbeat([], RECORD, MODEL, 5000)
    time.sleep(0.6)
    refused = claim_in_advance(frozen)
    assert (ids_of(refused), refused.left) == ([], 1)
    frozen = bench.worker("frozen", lease_ms=60_000)
    frozen.heartbeat([], RECORD, MODEL, 60_000)
    assert ids_of(claim_in_advance(frozen)) == ["x"]


def test_a_claim_that_is_refused_wakes_another_worker(bench: Bench) -> None:
    (other,) = idle_workers(bench, "other")
    frozen = bench.worker("frozen", lease_ms=500)
    frozen.heartbeat([], RECORD, MODEL, 5000)
    frozen.claim(10, 100, 100, idle_ms=0)
    time.sleep(0.6)
    bench.ask("x")
    assert woken(other) == []
    assert ids_of(claim_in_advance(frozen)) == []
    assert woken(other) == ["other"]


@pytest.mark.redis
def test_results_are_sent_before_the_wait_in_the_same_write(redis_server: RedisServer) -> None:
    """A fake server runs all commands of a write before it answers the first one."""
    bench = Bench(redis_server.client())
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 5000)
    bench.ask("x", "z")
    assert ids_of(worker.claim(1, 100, 100)) == ["x"]
    assert ids_of(worker.claim(1, 100, 100)) == ["z"]
    waits = worker.claim_command(10, 100, 100, waits=True, idle_ms=0)
    found: list[Any] = []

    def completed(answer: Completed) -> None:
        found.append((answer.answered, bench.client.exists(f"{bench.P}:entry:x")))
        bench.ask("y")

    refused = worker.complete_command([("z", ANSWER)])
    worker.complete([("z", ANSWER)])
    bench.client.delete(f"{bench.P}:wake:w")
    claimed = worker.complete_and_wait(worker.complete_command([("x", ANSWER)], True), 5.0, waits, completed)
    assert found == [(1, 0)]
    assert ids_of(claimed) == ["y"]
    bench.client.script_flush()
    with pytest.raises(redis.exceptions.NoScriptError):
        worker.complete_and_wait(refused, 60.0, waits, completed)
    assert len(found) == 1
    assert worker.complete([("y", ANSWER)]) == 1, "the connection is still of use"


def test_of_a_wait_that_fails_the_claim_counts_if_it_brought_something(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 5000)
    bench.ask("x")
    refused = redis.exceptions.NoPermissionError("no permissions to run blpop")

    def refusing(*arguments: Any) -> list[Any]:
        answers = round_trip(*arguments)
        return answers if len(answers) == 1 else [refused, *answers[1:]]

    monkeypatch.setattr("batcher.worker.queue.round_trip", refusing)
    assert ids_of(claim_in_advance(worker)) == ["x"]
    with pytest.raises(redis.exceptions.NoPermissionError):
        claim_in_advance(worker)


def test_the_newest_ready_worker_names_the_model_and_a_dead_revision_is_replaced(bench: Bench) -> None:
    old, new = bench.worker("old"), bench.worker("new")
    old.heartbeat([], RECORD, MODEL, 5000, takeover=True)
    new.heartbeat([], RECORD | {"revision": "B"}, MODEL | {"revision": "B"}, 5000, takeover=True)
    old.heartbeat([], RECORD, MODEL, 5000)
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"B"
    bench.lapse()
    old.heartbeat([], RECORD, MODEL, 5000)
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"rev"


def test_workers_of_a_former_model_do_not_bring_it_back_at_the_shard_where_only_they_live(
    bench: Bench,
) -> None:
    changed = {"revision": "B"}
    there = Bench(bench.client, "shard2")
    for shard in (bench, there):
        shard.worker("old").heartbeat([], RECORD, MODEL, 60_000, takeover=True)
        shard.worker("new").heartbeat([], RECORD | changed, MODEL | changed, 60_000, takeover=True)
        shard.lapse()
    bench.worker("old").heartbeat([], RECORD, MODEL, 60_000)
    there.worker("new").heartbeat([], RECORD | changed, MODEL | changed, 60_000)
    shards = [bench.sweep(), there.sweep()]
    assert [shard.model and shard.model.revision for shard in shards] == ["rev", "B"]
    whole = merge(shards)
    assert whole.model
    assert whole.model.revision == "B"
    # Once no worker of the new model is left, the former is what answers.
    there.worker("new").retire()
    bench.client.hset(f"{there.P}:model", "live_until", 0)
    whole = merge([bench.sweep(), there.sweep()])
    assert whole.model
    assert whole.model.revision == "rev"


@pytest.mark.parametrize(("lifetimes", "name"), [(1.9, b"B"), (2.1, b"rev")])
def test_a_model_without_heartbeats_is_replaced_after_two_lifetimes_of_a_record(
    bench: Bench, lifetimes: float, name: bytes
) -> None:
    changed = {"revision": "B"}
    bench.worker("gone").heartbeat([], RECORD | changed, MODEL | changed, 60_000)
    key = f"{bench.P}:model"
    bench.client.hincrby(key, "renewed", -int(lifetimes * 60_000))
    bench.worker("here").heartbeat([], RECORD, MODEL, 60_000)
    assert bench.client.hget(key, "revision") == name


def test_revisions_of_one_model_do_not_take_the_name_from_each_other(bench: Bench) -> None:
    """A worker on another processor may answer in another arithmetic, under a separate revision."""
    model = MODEL | {"identity": "checkpoint"}
    first, second, other = bench.worker("first"), bench.worker("second"), bench.worker("other")
    first.heartbeat([], RECORD, model, 5000, takeover=True)
    second.heartbeat([], RECORD | {"revision": "bf16"}, model | {"revision": "bf16"}, 5000, takeover=True)
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"rev"
    changed = {"revision": "new", "identity": "another checkpoint"}
    other.heartbeat([], RECORD | {"revision": "new"}, model | changed, 5000, takeover=True)
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"new"
    bench.lapse()
    second.heartbeat([], RECORD | {"revision": "bf16"}, model | {"revision": "bf16"}, 5000)
    assert bench.client.hget(f"{bench.P}:model", "revision") == b"bf16"


def test_a_snapshot_counts_only_the_living(bench: Bench) -> None:
    bench.worker("gone").heartbeat([], RECORD, MODEL, 10, takeover=True)
    bench.worker("here").heartbeat([], RECORD, MODEL, 5000)
    time.sleep(0.03)
    assert bench.sweep().workers == 1
    assert bench.live() == {"here"}
    # Redis may lose the record of a worker and not its place in the list, until the next heartbeat.
    bench.client.zadd(f"{bench.P}:workers", {"without a record": 10**15})
    assert bench.live() == {"here"}
    bench.worker("here").retire()
    assert bench.sweep().workers == 0


def test_what_is_known_of_a_worker_that_has_ended_is_dropped(bench: Bench) -> None:
    bench.worker("gone").heartbeat([], RECORD, MODEL, 10)
    bench.worker("here").heartbeat([], RECORD, MODEL, 60_000)
    wait_until(lambda: bench.sweep().workers == 1, "the sweep to find that it has ended")
    assert bench.client.keys(f"{bench.P}:worker:*") == [f"{bench.P}:worker:here".encode()]
    assert bench.client.zrange(f"{bench.P}:workers", 0, -1) == [b"here"]


def test_a_snapshot_ends_soon_where_no_worker_is(bench: Bench) -> None:
    def lasts_ms() -> int:
        bench.sweep()
        return int(bench.client.pttl(f"{bench.P}:snapshot"))

    assert lasts_ms() <= 300_000
    guest = {"revision": "rev", "guest_rate": 5}
    bench.worker("guest").heartbeat([], guest, MODEL, 5000)
    assert lasts_ms() > 3_000_000
    bench.worker("w").heartbeat([], RECORD, MODEL, 5000)
    assert lasts_ms() > 3_000_000
    bench.worker("guest").retire()
    assert lasts_ms() > 3_000_000


def test_a_hold_ended_five_minutes_after_the_last_worker(bench: Bench) -> None:
    """The sweep let the snapshot expire, and with it the holds; other changes of it gave them an hour."""

    def lasts_s() -> int:
        return int(bench.client.ttl(f"{bench.P}:snapshot"))

    week_s = 7 * 86_400
    holds = ClientHolds(bench.client, bench.queue)
    holds.set("key:web", "all", week_s)
    assert lasts_s() > week_s
    bench.sweep()
    assert lasts_s() > week_s
    (asked,) = bench.worker().run([AskQuestion(Question("t", "request", ("x",)), 1000)])
    assert asked
    assert lasts_s() > week_s
    worker = bench.worker()
    worker.heartbeat([], RECORD, MODEL, 5000)
    worker.heartbeat([], RECORD | {"texts": 3}, MODEL, 5000)
    assert lasts_s() > week_s
    Listing(["quick"], [(bench.client, bench.P)]).list()
    assert lasts_s() > week_s
    worker.retire()
    assert bench.sweep().holds.keys() == holds.current().keys() == {"key:web"}
    assert lasts_s() > week_s
    holds.end("key:web")
    bench.sweep()
    assert lasts_s() <= 300


def test_scripts_come_back_after_a_flush(bench: Bench) -> None:
    bench.ask("x")
    bench.client.script_flush()
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_a_script_that_was_forgotten_does_not_run_its_neighbours_twice(bench: Bench) -> None:
    bench.ask("x")
    worker = bench.worker()
    worker.claim(0, 0, 0)  # the server knows claim but not complete
    commands = [worker.complete_command([("y", ANSWER)]), worker.claim_command(10, 100, 100)]
    _, claimed = worker.run(commands)
    assert ids_of(claimed) == ["x"]


def test_every_key_ends_by_itself_but_the_lanes_the_dead_and_the_model(bench: Bench) -> None:
    bench.worker("w").heartbeat([], RECORD, MODEL, 5000, takeover=True)
    bench.ask("x", "y")
    bench.worker().claim(1, 100, 100)
    bench.worker().complete([("x", ANSWER)])
    endless = {key.decode() for key in bench.client.keys("*") if bench.client.ttl(key) < 0}
    assert endless == {f"{bench.P}:model", f"{bench.P}:q", f"{bench.P}:clock"}


def test_finding_06_a_command_names_the_entries_it_is_about(bench: Bench) -> None:
    """Tracing used to know at which places of the arguments the ids stood."""
    results = ((entry, ANSWER) for entry in ("x", "y"))
    completing = bench.worker().complete_command(results)
    assert isinstance(completing, Complete)
    enqueueing = Enqueue(["x", "y"], ["text"] * 2, [10] * 2, "a", "interactive", 1000, 10)
    for command in (completing, enqueueing, Cancel("a", ["x", "y"]), Outcomes(["x", "y"])):
        assert command.ids == ["x", "y"]
    assert Cancel("a", ["x"]).args() == ["a", "x"]


def test_a_process_that_counts_for_the_first_time_drops_clients_of_processes_that_have_ended(
    bench: Bench,
) -> None:
    key, long_ago = f"{bench.P}:clients", int(time.time() * 1000) - 61_000

    def count(api: str, number: int) -> None:
        rows = [UsageRow("web", "2026-01-31", 5, 0, 1, 0, 0)]
        bench.worker().run([AddUsage(api, number, "{}", 3_600_000, rows)])

    count("a", 1)
    bench.client.hset(key, "ended", f"{long_ago} 7 {{}}")
    count("a", 2)
    assert set(bench.client.hkeys(key)) == {b"a", b"ended"}, "it is looked for rarely"
    count("b", 1)
    assert set(bench.client.hkeys(key)) == {b"a", b"b"}


def test_a_snapshot_of_an_empty_queue_has_no_depth(bench: Bench) -> None:
    bench.client.hset(f"{bench.P}:snapshot", "workers", 1)
    bench.client.set(f"{bench.P}:sweeper", "another process", px=1500)
    snapshot = bench.sweep()
    assert not snapshot.swept
    for depth in (snapshot.interactive, snapshot.bulk):
        assert (depth.entries, depth.cost, depth.oldest_ms) == (0, 0, 0)
