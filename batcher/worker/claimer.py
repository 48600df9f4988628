"""How a worker claims: as much as its next pass can use, by what it holds and who has asked lately."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from batcher.core.consumer import Claim, WorkerQueue, read_claim
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.core.scripts import Command
from batcher.settings import WorkerSettings
from batcher.worker.batching import Arrivals, CostModel, InteractiveTraffic, claim_cost
from batcher.worker.heartbeat import Heartbeat
from batcher.worker.inference import TokenizedEntry
from model_store import Layout

WAIT_S = 1.0
NOTHING = Claim([], 0, 0, 0, b"0-0")


class Claimer:
    """The claims of one worker. `left` entries waited at the last one; `skipped` and `expired` are totals."""

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
        # Of the last claim: whoever waits from there misses nothing that came since. Empty: ask first.
        self._bell = b""
        self._company = InteractiveTraffic()
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
    ) -> Command:
        """`ahead` of the end of a pass only those are claimed who cannot wait, if there may be any.

        `waits`: to be handed to `wait`.
        """
        wanted = claim_cost(sum(len(one.tokens) for one in held), budget, self._layout)
        bulk = self._company.bulk_tokens(cost, budget, time.monotonic())
        if ahead and bulk < budget:
            bulk = 0
        free = not ahead and not held
        return self._queue.claim_command(self._most, wanted, min(wanted, bulk), free, waits)

    def claim(self, command: Command) -> Claim:
        """One try: nothing, after a moment, where Redis does not answer."""
        try:
            (answer,) = self._queue.run([command])
        except REDIS_ERRORS as error:
            return self._failed(error)
        return self.taken(answer)

    @property
    def more(self) -> bool:
        """Whether a claim may bring something at once, so that there is no need to wait."""
        return self.left > 0 or not self._bell

    def wait(self, window_s: float, command: Command) -> Claim:
        """What comes within WAIT_S: claimed as it comes, or with its company `window_s` later."""
        try:
            if window_s <= 0.0:
                return self.taken(self._waiting_queue.wait_and_claim(self._bell, WAIT_S, command))
            if not self._waiting_queue.wait(self._bell, WAIT_S):
                self._bell = b""
                return NOTHING
        except REDIS_ERRORS as error:
            return self._failed(error)
        self._stopping.wait(window_s)
        return self.claim(command)

    def _failed(self, error: Exception) -> Claim:
        self._outage.lost(error)
        self._bell = b""
        self._stopping.wait(self._outage.pause_s)
        return NOTHING

    def taken(self, answer: Sequence[Any]) -> Claim:
        """The claim that Redis answered with; from now on its leases are kept alive."""
        self._outage.found()
        claim = read_claim(answer)
        self._heartbeat.hold(entry.id for entry in claim.entries)
        now = time.monotonic()
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        callers = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._company = self._company.seen(callers, now)
        self.left, self._bell = claim.left, claim.bell
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim
