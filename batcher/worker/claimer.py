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
        # Position in the wake-up stream at the last claim: a wait that starts there misses no later entry.
        # If it is empty, the worker must try a claim before it waits.
        self._last_wakeup = b""
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
        return self._queue.claim_command(self._most, wanted, min(wanted, bulk), free, waits)

    def claim(self, command: Claim) -> Claimed:
        """Claims once. If Redis does not answer, pauses briefly and returns an empty claim."""
        try:
            (claimed,) = self._queue.run([command])
        except REDIS_ERRORS as error:
            return self._failed(error)
        return self.taken(claimed)

    @property
    def more(self) -> bool:
        """Whether a claim may return entries at once, so that the worker should not wait."""
        return self.left > 0 or not self._last_wakeup

    def wait(self, window_s: float, command: Claim) -> Claimed:
        """Waits up to WAIT_S for entries, then claims at once, or after `window_s` to let more arrive."""
        try:
            if window_s <= 0.0:
                return self.taken(self._waiting_queue.wait_and_claim(self._last_wakeup, WAIT_S, command))
            if not self._waiting_queue.wait(self._last_wakeup, WAIT_S):
                self._last_wakeup = b""
                return NOTHING
        except REDIS_ERRORS as error:
            return self._failed(error)
        self._stopping.wait(window_s)
        return self.claim(command)

    def _failed(self, error: Exception) -> Claimed:
        self._outage.lost(error)
        self._last_wakeup = b""
        self._stopping.wait(self._outage.pause_s)
        return NOTHING

    def taken(self, claim: Claimed) -> Claimed:
        """Starts renewing the leases of claimed entries."""
        if not self._outage.over:
            self._outage.found()
        self._heartbeat.hold(entry.id for entry in claim.entries)
        now = time.monotonic()
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        interactive = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._traffic = self._traffic.seen(interactive, now)
        self.left, self._last_wakeup = claim.left, claim.bell
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim
