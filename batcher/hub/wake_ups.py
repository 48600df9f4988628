"""Replaces wake-ups that were lost with a worker, and asks other shards for help if all workers are busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from batcher.core.pipeline import Pipeline
from batcher.core.waking import Wake, Waking

# Entries that still wait after this time need another worker: a healthy one claims within a few ms.
WAKE_AGAIN_S = 0.015


class WakeUps:
    """Checks a while after an enqueue whether the worker that was woken has claimed. `pending`: by id.

    With several shards, `ask_for_help` is called with the age of the first entry in ms while entries wait and
    no worker of this shard is idle.
    """

    def __init__(self, pipeline: Pipeline, pending: Mapping[str, object]) -> None:
        self.ask_for_help: Callable[[int], None] | None = None
        self._pipeline = pipeline
        self._pending = pending
        self._scheduled = False

    def queued(self, idle: int) -> None:
        """Call it after an enqueue: `idle` workers are left, or -1 if there was none to wake."""
        if idle < 0 and self.ask_for_help is not None:
            self.ask_for_help(0)
        self.check_later()

    def check_later(self) -> None:
        """Checks soon whether entries still wait."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(WAKE_AGAIN_S, self._check)

    def _check(self) -> None:
        self._scheduled = False
        if self._pending or self.ask_for_help:
            self._pipeline.run(Wake()).add_done_callback(self._woken)

    def _woken(self, done: asyncio.Future[Waking]) -> None:
        if done.exception() is None:
            idle, oldest_ms = done.result()
            if idle > 0:
                self.check_later()
            elif idle < 0 and self.ask_for_help is not None:
                self.ask_for_help(oldest_ms)
                self.check_later()
