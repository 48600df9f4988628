"""Claims entries for a worker: as much as its next batch can use, given what it holds and recent traffic."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from batcher.core.commands import Claim, Claimed
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.settings import WorkerSettings
from batcher.worker.batching import Arrivals, CostModel, InteractiveTraffic, claim_cost
from batcher.worker.heartbeat import Heartbeat
from batcher.worker.inference import TokenizedEntry
from batcher.worker.queue import WorkerQueue
from model_store import Layout

WAIT_S = 1.0
NOTHING = Claimed()


class Claimer:
    """Claims entries for one worker.

    `left` is the number of entries still waiting after the last claim; `skipped` and `expired` are totals.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        waiting_queue: WorkerQueue,
        heartbeat: Heartbeat,
        outage: Outage,
        settings: WorkerSettings,
        layout: Layout,
        stopping: threading.Event,
    ) -> None:
        self.left = self.skipped = self.expired = 0
        self.arrivals = Arrivals()
        # Whether Redis knows that this worker is idle. If not, the worker must claim before it waits.
        self.idle = False
        self._busy_at = time.monotonic()
        self._traffic = InteractiveTraffic()
        self._queue = queue
        self._waiting_queue = waiting_queue
        self._heartbeat = heartbeat
        self._outage = outage
        self._most = settings.batch_texts
        self._layout = layout
        self._stopping = stopping

    def command(
        self,
        held: Sequence[TokenizedEntry],
        cost: CostModel,
        budget: int,
        *,
        ahead: bool = False,
        waits: bool = False,
    ) -> Claim:
        """Builds the next claim. Pass `waits=True` for a command that is handed to `wait`.

        With `ahead=True` (claiming while a batch is running), only interactive entries are claimed if there
        has been interactive traffic recently.
        """
        wanted = claim_cost(sum(len(one.tokens) for one in held), budget, self._layout)
        bulk = self._traffic.bulk_tokens(cost, budget, time.monotonic())
        if ahead and bulk < budget:
            bulk = 0
        free = not ahead and not held
        idle_ms = int((time.monotonic() - self._busy_at) * 1000) if free else -1
        return self._queue.claim_command(self._most, wanted, min(wanted, bulk), free, waits, idle_ms)

    def claim(self, command: Claim) -> Claimed:
        """Claims once. If Redis does not answer, pauses briefly and returns an empty claim."""
        try:
            (claimed,) = self._queue.run([command])
        except REDIS_ERRORS as error:
            return self._failed(error)
        return self.taken(claimed, noted=command.idle_ms >= 0)

    def wait(self, window_s: float, command: Claim) -> Claimed:
        """Waits up to WAIT_S for entries, then claims at once, or after `window_s` to let more arrive."""
        try:
            if window_s <= 0.0:
                return self.taken(self._waiting_queue.wait_and_claim(WAIT_S, command), noted=True)
            if not self._waiting_queue.wait(WAIT_S):
                self.idle = False
                return NOTHING
        except REDIS_ERRORS as error:
            return self._failed(error)
        self._stopping.wait(window_s)
        return self.claim(command)

    def _failed(self, error: Exception) -> Claimed:
        self._outage.lost(error)
        self.idle = False
        self._stopping.wait(self._outage.pause_s)
        return NOTHING

    def taken(self, claim: Claimed, *, noted: bool) -> Claimed:
        """Starts renewing the leases of claimed entries. `noted`: if there are none, this worker is idle."""
        if not self._outage.over:
            self._outage.found()
        self._heartbeat.hold(entry.id for entry in claim.entries)
        now = time.monotonic()
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        interactive = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._traffic = self._traffic.seen(interactive, now)
        self.left, self.idle = claim.left, noted and not claim.entries
        if claim.entries:
            self._busy_at = now
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim
