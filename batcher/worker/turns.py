"""Turns of workers that share the processor: one batch at a time, whatever model it is for.

The next one is chosen by its response ratio (Brinch Hansen 1971): how long it has waited for its turn, in
proportion to the cost of its batch. Short batches go first, but every batch gets a turn. The wait for
the turn counts, not that of the texts, so that a model with a backlog gets one batch in a round.

It is chosen while the batch before it still runs, so that it has time to claim more entries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Waiting:
    cost_s: float
    since: float
    chosen: threading.Event = field(default_factory=threading.Event)


class Turns:
    """At most one thread has the turn: from `take` to `end`. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._next: _Waiting | None = None

    def take(self, cost_s: float, prepare: Callable[[], None]) -> None:
        """Returns once it is this thread's turn. Calls `prepare` if it is the next one and has to wait.

        Raises what `prepare` raises: the turn is then another thread's.
        """
        own = _Waiting(max(cost_s, 1e-6), self._now())
        with self._lock:
            self._waiting.append(own)
            self._choose()
        own.chosen.wait()
        try:
            if self._running.locked():
                prepare()
            self._running.acquire()
        finally:
            with self._lock:
                self._next = None
                self._choose()

    def end(self) -> None:
        """Ends the turn of this thread."""
        self._running.release()

    def _choose(self) -> None:
        if self._next is not None or not self._waiting:
            return
        now = self._now()
        self._next = max(self._waiting, key=lambda one: (now - one.since) / one.cost_s)
        self._waiting.remove(self._next)
        self._next.chosen.set()
