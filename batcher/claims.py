"""How a worker claims: as much as its next pass can use, by what it holds and who has asked lately."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from batcher.collect import Arrivals, Company, CostModel, claim_cost
from batcher.heartbeat import Heartbeat
from batcher.inference import Held
from batcher.outage import REDIS_ERRORS, RETRY_S, Outage
from batcher.redis_queue import Claim, Command, WorkerQueue, read_claim
from batcher.settings import WorkerSettings
from model_store import Layout

NOTHING = Claim([], 0, 0, 0, b"0-0")


class Claims:
    """The claims of one worker. `left` entries waited at the last one; `skipped` and `expired` are totals."""

    def __init__(
        self,
        queue: WorkerQueue,
        heartbeat: Heartbeat,
        outage: Outage,
        settings: WorkerSettings,
        layout: Layout,
        stopping: threading.Event,
    ) -> None:
        self.left = self.skipped = self.expired = 0
        self.arrivals = Arrivals()
        self._company = Company()
        self._queue = queue
        self._heartbeat = heartbeat
        self._outage = outage
        self._most = settings.batch_texts
        self._layout = layout
        self._stopping = stopping

    def command(self, held: Sequence[Held], cost: CostModel, budget: int, ahead: bool = False) -> Command:
        """`ahead` of the end of a pass only those are claimed who cannot wait, if there may be any."""
        wanted = claim_cost(sum(len(one.tokens) for one in held), budget, self._layout)
        bulk = self._company.bulk_tokens(cost, budget, time.monotonic())
        if ahead and bulk < budget:
            bulk = 0
        free = not ahead and not held
        return self._queue.claim_command(self._most, wanted, min(wanted, bulk), free)

    def claim(self, command: Command) -> Claim:
        """One try: nothing, after a moment, where Redis does not answer."""
        try:
            (answer,) = self._queue.run([command])
            self._outage.found()
        except REDIS_ERRORS as error:
            self._outage.lost(error)
            self._stopping.wait(RETRY_S)
            return NOTHING
        return self.taken(answer)

    def taken(self, answer: Sequence[Any]) -> Claim:
        """The claim that Redis answered with; from now on its leases are kept alive."""
        claim = read_claim(answer)
        self._heartbeat.hold(entry.id for entry in claim.entries)
        now = time.monotonic()
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        callers = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._company = self._company.seen(callers, now)
        self.left = claim.left
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim
