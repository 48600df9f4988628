"""Polls for results whose hints were lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from batcher.connection.outage import REDIS_ERRORS, refused
from batcher.connection.pipeline import Pipeline
from batcher.core.commands import Outcomes
from batcher.hub.dispatcher import LOOK_S, Dispatcher
from batcher.hub.pending import PendingEntry

# An entry is polled at growing intervals up to this one.
LOOK_MAX_S = 1.0
MAX_POLLED = 500


class SlowPoll:
    """Polls for the results of pending entries. After `hints_lost`, the next poll is for all of them."""

    def __init__(self, pipeline: Pipeline, dispatcher: Dispatcher) -> None:
        self.hints_lost = False
        self._pipeline = pipeline
        self._dispatcher = dispatcher

    async def poll(self) -> None:
        """Polls once for the entries that are due."""
        late = self.late(asyncio.get_running_loop().time())
        self.hints_lost = False
        for at in range(0, len(late), MAX_POLLED):
            await self.fetch(late[at : at + MAX_POLLED])

    def late(self, now: float) -> list[PendingEntry]:
        """The entries that are due, or after a loss of hints all that have waited LOOK_S."""
        late = []
        for entry in self._dispatcher.pending.values():
            waited = now - entry.asked_at
            if entry.look_at <= now or (self.hints_lost and waited > LOOK_S):
                entry.look_at = now + min(max(waited, LOOK_S), LOOK_MAX_S)
                late.append(entry)
        return late

    async def fetch(self, entries: Sequence[PendingEntry]) -> None:
        """Asks Redis for the outcomes of these entries."""
        try:
            states = await self._pipeline.run(Outcomes([entry.id for entry in entries]))
        except REDIS_ERRORS as error:
            if not refused(error):
                self._dispatcher.lost(error)
            return
        for entry, state in zip(entries, states, strict=True):
            if not entry.waiters or state.kind == "waiting":
                continue
            if state.kind == "gone":
                self._dispatcher.again(entry)
            else:
                self._dispatcher.counts.polled += 1
                self._dispatcher.take_result(entry, state.result)
