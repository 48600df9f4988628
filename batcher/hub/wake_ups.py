"""Replaces wake-ups that were lost with a worker, and asks other shards for help if all workers are busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from batcher.core.pipeline import Pipeline
from batcher.core.waking import Wake, Waking
from batcher.hub.pending import PendingEntry

# Entries that still wait after this time need another worker: a healthy one claims within a few ms.
WAKE_AGAIN_S = 0.015


class WakeUps:
    """Checks a while after an enqueue whether the worker that was woken has claimed. `pending`: by id.

    With several shards, `ask_for_help` is called with the age of the first entry in ms while entries wait and
    no worker of this shard is idle. `idle` is how many were, by the last reply; -1 if there was none to wake.
    """

    def __init__(self, pipeline: Pipeline, pending: Mapping[str, PendingEntry]) -> None:
        self.ask_for_help: Callable[[int], None] | None = None
        self.idle = 0
        self._pipeline = pipeline
        self._pending = pending
        self._scheduled = False
        self._found = False

    def queued(self, idle: int) -> None:
        """Call it after an enqueue: `idle` workers are left, or -1 if there was none to wake."""
        self.idle = idle
        if self.ask_for_help is not None:
            if idle < 0:
                self.ask_for_help(0)
            self._check_in(WAKE_AGAIN_S)
        elif idle > 0:
            self._check_in(WAKE_AGAIN_S)

    def found_waiting(self) -> None:
        """Call it after a sweep that has found entries, perhaps of a process that has ended."""
        self._found = True
        self._check_in(WAKE_AGAIN_S)

    def _check_in(self, seconds: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        """Asks whether entries wait, if one of this process has been pending for long enough."""
        self._scheduled = False
        oldest = next(iter(self._pending.values()), None)
        waited = asyncio.get_running_loop().time() - oldest.asked_at if oldest is not None else 0.0
        if self._found or waited > 0.9 * WAKE_AGAIN_S:
            self._found = False
            self._pipeline.run(Wake()).add_done_callback(self._woken)
        elif oldest is not None:
            self._check_in(WAKE_AGAIN_S - max(waited, 0.0))

    def _woken(self, done: asyncio.Future[Waking]) -> None:
        if done.exception() is None:
            before, (self.idle, oldest_ms) = self.idle, done.result()
            # The last one that was idle may be gone: with several shards, others can help.
            last = before > self.idle == 0 and self.ask_for_help is not None
            if self.idle > 0 or last:
                self._check_in(WAKE_AGAIN_S)
            elif self.idle < 0 and self.ask_for_help is not None:
                self.ask_for_help(oldest_ms)
                self._check_in(WAKE_AGAIN_S)
