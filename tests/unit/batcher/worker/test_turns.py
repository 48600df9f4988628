"""Who computes next when models share a processor."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

from batcher.worker.turns import Turns, _Waiting


class Line:
    """Threads that wait for their turn, in an order that does not depend on the machine."""

    def __init__(self) -> None:
        self.time = 0.0
        self.turns = Turns(lambda: self.time)
        self.order: list[str] = []
        self.prepared: list[str] = []
        self._asked = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        # The first turn is that of the test, until `end`; the second waits as the next one.
        self.turns.take(1.0, lambda: None)

    def ask(self, name: str, cost_s: float) -> None:
        """Returns once this one waits."""
        thread = threading.Thread(target=self._take, args=(name, cost_s))
        before = self._line()
        thread.start()
        self._threads.append(thread)
        while self._line() == before:
            threading.Event().wait(0.001)

    def _line(self) -> tuple[int, bool]:
        return len(self.turns._waiting), self.turns._next is not None

    def _take(self, name: str, cost_s: float) -> None:
        self.turns.take(cost_s, lambda: self.prepared.append(name))
        self.order.append(name)
        self.time += cost_s
        self.turns.end()

    def end(self) -> list[str]:
        self.turns.end()
        for thread in self._threads:
            thread.join()
        return self.order


def test_a_short_batch_goes_first_and_a_long_one_in_the_end() -> None:
    line = Line()
    line.ask("next", 1.0)
    line.ask("long", 10.0)
    line.time += 1.0
    line.ask("short", 0.1)
    line.time += 0.2  # it has waited for twice its time, the long one for an eighth
    assert line.end() == ["next", "short", "long"]


def test_a_long_batch_that_has_waited_for_long_enough_goes_before_short_ones() -> None:
    line = Line()
    line.ask("next", 1.0)
    line.ask("long", 10.0)
    line.time += 100.0
    line.ask("short", 1.0)
    line.time += 5.0
    assert line.end() == ["next", "long", "short"]


def test_only_who_has_to_wait_prepares() -> None:
    line = Line()
    line.ask("waits", 1.0)
    line.end()
    assert line.prepared == ["waits"]
    line.turns.take(1.0, lambda: line.prepared.append("free"))
    line.turns.end()
    assert line.prepared == ["waits"]


def test_an_error_while_preparing_kept_the_turn_for_ever() -> None:
    """All other models of the process waited for it."""
    turns = Turns()
    turns.take(1.0, lambda: None)
    failed: list[BaseException] = []

    def fail() -> None:
        raise ValueError("no")

    def take() -> None:
        try:
            turns.take(1.0, fail)
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert len(failed) == 1
    turns.end()
    turns.take(1.0, lambda: None)
    turns.end()


def test_twenty_models_with_backlogs_share_and_none_starves() -> None:
    costs = {f"m{number}": 0.001 * 1.3**number for number in range(20)}
    now = 0.0
    turns = Turns(lambda: now)
    waiting = {_Waiting(cost_s, now): name for name, cost_s in costs.items()}
    turns._waiting += waiting
    got: Counter[str] = Counter()
    for _ in range(10_000):  # who has had a turn wants the next one at once
        turns._next = None
        turns._choose()
        name = waiting.pop(turns._next)
        got[name] += 1
        now += costs[name]
        again = _Waiting(costs[name], now)
        waiting[again] = name
        turns._waiting.append(again)
    assert all(got[cheap] >= got[dear] for cheap, dear in itertools.pairwise(costs))
    # What a model waits is in proportion to what its batches cost.
    assert 1 / 3 < (got["m0"] * costs["m0"]) / (got["m19"] * costs["m19"]) < 1
