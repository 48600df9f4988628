"""The workers of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from batcher.core.keys import SNAPSHOT_S
from batcher.messages import entry_id
from batcher.settings import WorkerSettings
from batcher.worker.loop import Worker
from batcher.worker.several import LIST_EVERY_S, Listing, Repeated, SeveralWorkers
from batcher.worker.turns import Turns
from model_store.stub import StubClassifier
from tests.conftest import FakeRedis
from tests.fakes import FakeClock, FakeQueue, fake_host


class Fake:
    warmed = 0

    def warm_up(self) -> None:
        self.warmed += 1


def test_the_cost_of_every_model_is_measured() -> None:
    workers: list[Any] = [Fake(), Fake()]
    SeveralWorkers(workers).warm_up()
    assert [worker.warmed for worker in workers] == [1, 1]


def test_a_revision_that_is_loaded_when_the_others_have_ended_does_not_keep_the_process() -> None:
    class Running(Fake):
        broken = False

        def __init__(self) -> None:
            self.stopping = threading.Event()

        def run(self) -> None:
            assert self.stopping.wait(30)

        def stop(self) -> None:
            self.stopping.set()

    first, late = Running(), Running()
    workers: list[Any] = [first]
    several = SeveralWorkers(workers)
    running = threading.Thread(target=several.run)
    running.start()
    several.stop()
    running.join(30)
    assert not running.is_alive()
    anything: Any = late
    several.add(anything)
    assert late.stopping.is_set()


def test_two_workers_of_a_process_take_turns() -> None:
    """With one set of turns; the only one of a process needs none."""
    workers: list[Any] = [SimpleNamespace(turns=None, run=bool, stop=bool) for _ in range(2)]
    several = SeveralWorkers([])
    found = []
    for worker in workers:
        several.add(worker)
        found.append([one.turns for one in workers])
    turns = found[1][0]
    assert found[0] == [None, None]
    assert found[1] == [turns, turns]
    assert isinstance(turns, Turns)


def test_models_are_not_listed_any_more_once_that_was_stopped(fake_redis: FakeRedis) -> None:
    """A thread that ends later lists models that another process has taken off the list."""

    class Slow:
        def pipeline(self) -> Any:
            time.sleep(0.1)
            return fake_redis.sync.pipeline()

    slow: Any = Slow()
    thread = Repeated("listing", LIST_EVERY_S, Listing(["quick"], [(slow, "P")]).list)
    thread.start()
    thread.stop()
    assert fake_redis.sync.hkeys("P:snapshot")
    assert 0 < fake_redis.sync.ttl("P:snapshot") <= SNAPSHOT_S


class FakeTurns:
    """A worker waits for its first turn if anything `comes` meanwhile."""

    def __init__(self, log: list[str], comes: Callable[[], None] | None = None) -> None:
        self.log = log
        self.comes = comes

    def take(self, cost_s: float, prepare: Callable[[], None]) -> None:
        comes, self.comes = self.comes, None
        if comes is not None:
            comes()
            prepare()
        self.log.append("turn")

    def end(self) -> None:
        self.log.append("end of turn")


def sharing(queue: FakeQueue, comes: Callable[[], None] | None = None, **limits: int) -> Worker:
    """A worker that shares the processor, and stops once nothing waits. `queue.log` lists its turns too."""
    settings = WorkerSettings(lease_ms=60_000, **{"batch_texts": 4, **limits})
    host = fake_host(FakeClock(), "under way", lambda: queue.log.append("join"))
    worker = Worker(StubClassifier(), queue.queues, settings, lambda *results: None, host=host)
    turns: Any = FakeTurns(queue.log, comes)
    worker.turns, queue.on_idle = turns, worker.stop
    return worker


def test_a_turn_ends_with_the_forward_pass_and_not_with_what_follows() -> None:
    queue = FakeQueue([f"text {number}" for number in range(8)])
    sharing(queue).run()
    first = ["claim 4", "turn", "claim 4 more", "end of turn", "complete 4", "join"]
    assert queue.log[: len(first)] == first
    assert queue.log.count("turn") == queue.log.count("end of turn") == 2


def test_a_worker_that_fails_before_its_batch_runs_gives_up_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other models would wait for ever, and the process would not end."""

    def broken(lengths: object, layout: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("batcher.worker.loop.computed_tokens", broken)
    queue = FakeQueue(["a text"])
    with pytest.raises(ZeroDivisionError):
        sharing(queue).run()
    assert queue.log[:3] == ["claim 1", "turn", "end of turn"]


@pytest.mark.parametrize("alone", [False, True])
def test_what_comes_while_a_worker_waits_for_its_turn_runs_in_the_same_batch(alone: bool) -> None:
    """Unless it waits with a text that must run alone."""
    queue = FakeQueue(solo=["first"]) if alone else FakeQueue(["first"])

    def comes() -> None:
        queue.texts[entry_id("late")] = "late"
        queue.waiting.append(entry_id("late"))

    sharing(queue, comes).run()
    before = queue.log[: queue.log.index("turn")]
    claims = [line for line in before if line.startswith("claim")]
    completed = [line for line in queue.log if line.startswith("complete")]
    if alone:
        assert (claims, completed) == (["claim 1"], ["complete 1", "complete 1"])
    else:
        assert (claims, completed) == (["claim 1", "claim 1 more"], ["complete 2"])


@pytest.mark.parametrize("stopped", [True, False], ids=["that ends", "that has a whole batch"])
def test_a_worker_claims_no_more_while_it_waits_for_its_turn(stopped: bool) -> None:
    queue = FakeQueue(["word " * 20])
    worker = sharing(queue, lambda: worker.stop() if stopped else None, batch_tokens=64 if stopped else 4)
    worker.run()
    assert queue.log[:3] == ["claim 1", "join", "turn"]
