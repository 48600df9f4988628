"""Replaces wake-ups that were lost with a worker, while entries wait and other workers are idle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from batcher.core.commands import Wake
from batcher.core.pipeline import Pipeline

# Entries that still wait after this time need another worker: a healthy one claims within a few ms.
WAKE_AGAIN_S = 0.015


class WakeUps:
    """Checks a while after an enqueue whether the worker that was woken has claimed. `pending`: by id."""

    def __init__(self, pipeline: Pipeline, pending: Mapping[str, object]) -> None:
        self._pipeline = pipeline
        self._pending = pending
        self._scheduled = False

    def check_later(self) -> None:
        """Call it after an enqueue that left workers idle."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(WAKE_AGAIN_S, self._check)

    def _check(self) -> None:
        self._scheduled = False
        if self._pending:
            self._pipeline.run(Wake()).add_done_callback(self._woken)

    def _woken(self, done: asyncio.Future[int]) -> None:
        if done.exception() is None and done.result():
            self.check_later()
