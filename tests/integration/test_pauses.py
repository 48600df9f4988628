"""Pauses of lanes, by what the scripts answer, on fakeredis and on a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from api.admin.pauses import _change
from api.admin.schemas import LanePause
from batcher.core.commands import Enqueue, EnqueueAll, SetPause, Wake, Waking
from batcher.core.holds import OF_ALL, Waiting, in_force
from batcher.core.snapshot import NO_SNAPSHOT
from batcher.errors import QueueUnavailable
from tests.integration.test_queue_contract import ANSWER, MODEL, RECORD, Bench, ids_of


@pytest.fixture
def bench(client: redis.Redis) -> Bench:
    return Bench(client)


NUMBERS = itertools.count(1)


def pause(
    bench: Bench, lane: str, waiting: str = "keep", for_ms: int = 60_000, number: int = 0
) -> dict[str, str]:
    command = SetPause(lane, waiting, for_ms, number or next(NUMBERS))  # type: ignore[arg-type]
    (pauses,) = bench.worker().run([command])
    return {lane: pause.waiting for lane, pause in in_force(pauses).items()}


@pytest.mark.parametrize("waiting", ["keep", "refuse"])
def test_workers_leave_a_paused_lane_alone(bench: Bench, waiting: Waiting) -> None:
    assert pause(bench, "interactive", waiting) == {"interactive": waiting}
    bench.ask("x")
    bench.ask("y", lane="bulk")
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["y"]
    assert ids_of(bench.worker().claim(10, 100, 100)) == []
    assert pause(bench, "interactive", "") == {}
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_a_decision_is_kept_longer_than_any_pause_lasts_because_the_queues_clock_may_be_slow(
    bench: Bench,
) -> None:
    for waiting in ("keep", ""):
        pause(bench, "interactive", waiting, for_ms=300_000)
        assert 172_800_000 < bench.client.pttl(f"{bench.P}:pauses") <= 172_860_000


def test_an_earlier_decision_changes_nothing(bench: Bench) -> None:
    bench.worker().heartbeat([], RECORD, MODEL, 5000, takeover=True)
    assert pause(bench, "interactive", number=20) == {"interactive": "keep"}
    for number in (19, 20):
        assert pause(bench, "interactive", "", number=number) == {"interactive": "keep"}
    assert pause(bench, "bulk", "finish", number=10) == {"interactive": "keep", "bulk": "finish"}
    assert pause(bench, "interactive", "", number=21) == {"bulk": "finish"}
    assert pause(bench, "interactive", number=20) == {"bulk": "finish"}
    assert {lane: pause.number for lane, pause in bench.sweep().pauses.items()} == {
        "interactive": 21,
        "bulk": 10,
    }


def test_what_is_remembered_for_all_models_pauses_no_lane_by_itself(bench: Bench) -> None:
    for lane in OF_ALL.values():
        assert pause(bench, lane) == {}
    bench.ask("x")
    bench.ask("y", lane="bulk")
    assert sorted(ids_of(bench.worker().claim(10, 100, 100))) == ["x", "y"]
    assert bench.sweep().pauses.keys() == set(OF_ALL.values())


def test_a_paused_lane_takes_texts_and_wakes_nobody(bench: Bench) -> None:
    pause(bench, "interactive")
    command = Enqueue(["x", "y"], ["x", "y"], [5, 5], "a", "interactive", 10_000, 1000)
    ((accepted,),) = bench.worker().run([EnqueueAll([command])])
    assert ([state.kind for state in accepted.states], accepted.idle) == (["queued", "queued"], 0)


def test_what_waits_is_finished_if_asked(bench: Bench) -> None:
    bench.ask("x")
    pause(bench, "interactive", "finish")
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_each_lane_has_its_own_pause(bench: Bench) -> None:
    pause(bench, "interactive", "keep")
    assert pause(bench, "bulk", "finish") == {"interactive": "keep", "bulk": "finish"}
    assert pause(bench, "interactive", "refuse", 5000) == {"interactive": "refuse", "bulk": "finish"}
    assert pause(bench, "bulk", "") == {"interactive": "refuse"}


def test_both_lanes_paused_hold_what_runs_alone(bench: Bench) -> None:
    bench.ask("x")
    bench.worker("dead", lease_ms=1).claim(10, 100, 100)
    time.sleep(0.01)
    bench.sweep()
    for lane in ("interactive", "bulk"):
        pause(bench, lane)
    assert ids_of(bench.worker().claim(10, 100, 100)) == []
    pause(bench, "bulk", "")
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]


def test_idle_workers_do_not_wake_each_other_for_a_paused_lane(bench: Bench) -> None:
    """Each claim that leaves something wakes another worker: two of them would never rest."""
    for name in ("w1", "w2"):
        bench.worker(name).heartbeat([], RECORD, MODEL, 5000, takeover=True)
        assert bench.worker(name).claim(10, 100, 100, idle_ms=0).left == 0
    pause(bench, "interactive")
    bench.ask("x")
    assert not bench.client.keys(f"{bench.P}:wake:*")
    assert bench.worker("w1").claim(10, 100, 100, idle_ms=0).left == 0
    assert bench.worker().run([Wake()]) == [Waking(0, 0)]
    bench.sweep()
    bench.worker("w2").complete([("y", ANSWER)], idle=True)
    assert not bench.client.keys(f"{bench.P}:wake:*")
    pause(bench, "interactive", "")
    assert len(bench.client.keys(f"{bench.P}:wake:*")) == 1


def test_a_pause_ends_by_itself(bench: Bench) -> None:
    pause(bench, "interactive", for_ms=60_000)
    bench.ask("x")
    assert bench.sweep().pauses["interactive"].waiting == "keep"
    pause(bench, "interactive", for_ms=50)
    time.sleep(0.06)
    assert ids_of(bench.worker().claim(10, 100, 100)) == ["x"]
    assert not in_force(bench.sweep().pauses)


def test_every_process_reads_pauses_from_the_snapshot(bench: Bench) -> None:
    bench.worker().heartbeat([], RECORD, MODEL, 5000, takeover=True)
    bench.sweep(api="one")
    pause(bench, "bulk", "finish", 30_000)
    seen = bench.sweep(api="two")
    assert not seen.swept
    assert 29 < seen.pauses["bulk"].left_s <= 30


class _Asked:
    """A queue with one shard, which may not answer."""

    def __init__(self, answers: bool) -> None:
        self.lanes: list[Any] = []
        self.answers = answers
        self.parts = [self]
        self.hub = self.console = self
        self.snapshot = NO_SNAPSHOT

    async def look(self) -> None: ...

    async def run(self, command: Any) -> Any:
        if not self.answers:
            raise redis.exceptions.ConnectionError
        self.lanes.append(command.lane)
        return {}


class _Queue(_Asked):
    """A queue with one shard, in Redis."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(answers=True)
        self.bench = bench

    async def look(self) -> None:
        self.snapshot = self.bench.sweep()

    async def run(self, command: Any) -> Any:
        await asyncio.sleep(0)  # others come in between
        return self.bench.worker().run([command])[0]


async def _decide(queues: list[Any], pause: LanePause | None, lines: dict[int, str]) -> dict[str, Any]:
    """Pauses `bulk` at these queues, in their order, or resumes it."""

    async def record(request: Any, action: str, **facts: Any) -> None:
        lines[facts["decision"]] = action

    console: Any = SimpleNamespace(shards_down=(), record=record)
    models: Any = SimpleNamespace(every=queues)
    lanes: Any = [(queue, "bulk") for queue in queues]
    return await _change(console, models, SimpleNamespace(), lanes, pause, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("dropped", [True, False])
async def test_a_queue_that_is_dropped_meanwhile_does_not_stop_a_pause(dropped: bool) -> None:
    """The others were paused, and the answer was 503."""
    gone, first = _Asked(answers=False), _Asked(answers=True)

    async def record(*args: Any, **facts: Any) -> None: ...

    console: Any = SimpleNamespace(shards_down=(), record=record)
    models: Any = SimpleNamespace(every=[first] if dropped else [first, gone])
    lanes: Any = [(gone, "bulk"), (first, "bulk")]
    changed = _change(console, models, SimpleNamespace(), lanes, None, {})  # type: ignore[arg-type]
    if not dropped:
        with pytest.raises(QueueUnavailable):
            await changed
        return
    assert await changed == {"pauses": {}}
    assert first.lanes == ["bulk"]


@pytest.mark.parametrize("before", [0, 2**52])
async def test_decisions_of_one_moment_leave_all_queues_in_one_state(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Each queue kept the one that came first, for good: their numbers were the same."""
    queues = [_Queue(Bench(client, name)) for name in "ab"]
    monkeypatch.setattr("api.admin.pauses.time", lambda: 1_800_000_000.0)
    random.seed(1)
    for _ in range(5):
        for queue in queues:
            pause(queue.bench, "bulk", number=before)
        lines = dict[int, str]()
        pauses = (LanePause(for_s=60), LanePause(for_s=60, waiting="refuse"), None)
        orders = (queues, queues[::-1], queues)
        await asyncio.gather(*(_decide(*one, lines) for one in zip(orders, pauses, strict=True)))
        first, second = (queue.bench.sweep().pauses["bulk"] for queue in queues)
        assert (first.waiting, bool(first.left_s)) == (second.waiting, bool(second.left_s))
        assert first.number == second.number == max(lines)
        assert lines[max(lines)] == ("pause" if first.left_s else "resume")
        assert len(lines) == 3


@pytest.fixture
def unknown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> _Queue:
    """A queue about which something is decided once it was looked at."""
    queue = _Queue(bench)
    monkeypatch.setattr(queue, "look", partial(asyncio.sleep, 0))
    return queue


async def test_a_decision_that_is_overtaken_at_once_is_answered_with_what_holds(unknown: _Queue) -> None:
    pause(unknown.bench, "bulk", number=2**52)
    lines = dict[int, str]()
    answer = await _decide([unknown], None, lines)
    assert answer["pauses"]["bulk"]["waiting"] == "keep"
    assert list(lines.values()) == ["resume"]
    assert max(lines) < 2**52


async def test_a_decision_counts_after_those_that_were_numbered_by_milliseconds(unknown: _Queue) -> None:
    """Also if the clock of their host was ahead."""
    pause(unknown.bench, "bulk", number=round((time.time() + 3600) * 1000))
    assert (await _decide([unknown], None, {}))["pauses"] == {}
