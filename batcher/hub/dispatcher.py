"""Enqueues and cancels the entries that requests of an API process wait for. Equal texts share an entry."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from batcher.core.commands import Cancel, Enqueue, Enqueued, Full
from batcher.core.keys import cache_prefix
from batcher.core.outage import FULL, REFUSED, Outage, full, reason, refused, refused_cache
from batcher.core.pauses import Pause
from batcher.core.pipeline import Pipeline
from batcher.errors import BudgetExceeded, Malformed, MillraceError, QueueUnavailable
from batcher.hub.admission import Admission
from batcher.hub.counts import HubCounts
from batcher.hub.pending import PendingEntry, resolve
from batcher.hub.wake_ups import WakeUps
from batcher.messages import Lane, Outcome, Prediction, decode_cached, decode_result, estimate_cost

log = logging.getLogger(__name__)

# Pending requests survive an outage shorter than this. New requests are refused at once.
OUTAGE_GRACE_S = 0.8
# Results are polled after this time in case a hint was lost.
LOOK_S = 0.3
CANCEL_MOST = 512  # entries that one command cancels


class Dispatcher:
    """Enqueues and cancels the entries of one API process. `pending` are those without an outcome, by id."""

    def __init__(
        self, pipeline: Pipeline, cache_name: str, api: str, outage: Outage, admission: Admission
    ) -> None:
        self.counts = HubCounts()
        self.pending: dict[str, PendingEntry] = {}
        # False once Redis has refused to read cached results within a script.
        self.may_look = True
        self._pipeline = pipeline
        self._cache_name = cache_name
        self._api = api
        self._outage = outage
        self._admission = admission
        self.wake_ups = WakeUps(pipeline, self.pending)
        self._last_write = self._enqueues = 0
        self._unwanted: list[str] = []

    def hold(
        self,
        items: Iterable[tuple[str, str]],
        deadline: float,
        lane: Lane,
        trace: str,
        first: bool,
        revision: str,
        only: str = "",
    ) -> dict[str, PendingEntry]:
        """Adds a request that waits for these (id, text). Returns its entries by id.

        An entry is enqueued if it is new, or if this request has a later deadline or a higher priority.
        """
        held = dict[str, PendingEntry]()
        fresh, changed = list[PendingEntry](), list[PendingEntry]()
        for entry_id, text in items:
            if entry_id in held:
                continue
            entry = self.pending.get(entry_id)
            if entry is None or entry.future.done():
                future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
                entry = PendingEntry(entry_id, text, lane, trace, future, deadline, first, revision, only)
                self.pending[entry_id] = entry
                fresh.append(entry)
            elif deadline > entry.deadline + 0.001 or first > entry.first or lane != entry.lane == "bulk":
                entry.deadline = max(deadline, entry.deadline)
                if lane == "interactive":
                    entry.lane = lane
                entry.first |= first
                changed.append(entry)
            entry.waiting += 1
            held[entry_id] = entry
        if fresh or changed:
            self._enqueue([*fresh, *changed])
        return held

    def let_go(self, held: Iterable[PendingEntry]) -> None:
        """Removes a request. Cancels the entries without an outcome that no other request waits for."""
        for entry in held:
            entry.waiting -= 1
            if entry.waiting:
                continue
            self._forget(entry)
            if not entry.future.done():
                entry.future.cancel()
                self._withdraw(entry)

    def pause(self, pauses: Mapping[str, Pause]) -> None:
        """Applies the pauses of lanes. Withdraws from the queue the entries that they refuse."""
        self._admission.pauses = pauses
        for lane, refusal in self._admission.refusals():
            for entry in [entry for entry in self.pending.values() if entry.lane == lane]:
                self.resolve(entry, refusal)
                self._withdraw(entry)

    def _withdraw(self, entry: PendingEntry) -> None:
        if not self._unwanted:
            asyncio.get_running_loop().call_soon(self._cancel)
        self._unwanted.append(entry.id)

    def again(self, entry: PendingEntry) -> None:
        """Enqueues an entry again that was lost, or expired by the deadline of another, if time is left."""
        if entry.deadline - asyncio.get_running_loop().time() > 0.02:
            self.counts.asked_again += 1
            self._enqueue([entry])

    def _enqueue(self, entries: Sequence[PendingEntry]) -> None:
        """Enqueues entries of one request, which is that of the first of them.

        Other requests may have given the rest a later deadline, which the queue keeps.
        """
        one = entries[0]
        deadline = min(entry.deadline for entry in entries)
        budget_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
        command = Enqueue(
            [entry.id for entry in entries],
            [entry.text for entry in entries],
            [estimate_cost(entry.text) for entry in entries],
            self._api,
            one.lane,
            int(budget_s * 1000),
            self._admission.cap(one.lane, one.first, budget_s),
            one.trace,
            one.first,
            cache_prefix(self._cache_name, one.revision) if one.revision else "",
            one.only,
        )
        self._enqueues += 1
        for entry in entries:
            entry.enqueue = self._enqueues
        asked = self._pipeline.run(command)
        asked.add_done_callback(partial(self._replied, entries, self._enqueues, self._pipeline.writes))

    def _replied(
        self, entries: Sequence[PendingEntry], number: int, write: int, done: asyncio.Future[Enqueued]
    ) -> None:
        if error := done.exception():
            self._refused(entries, error)
            return
        self.counts.round_trips += write != self._last_write
        self._last_write = write
        enqueued, now = done.result(), asyncio.get_running_loop().time()
        if isinstance(enqueued, Full):
            self._full(entries, number, enqueued.waiting, now)
            return
        self.wake_ups.queued(enqueued.idle)
        for entry, state in zip(entries, enqueued.states, strict=True):
            if new := entry.asked_at == math.inf:
                entry.asked_at, entry.look_at = now, now + LOOK_S
            if state.kind == "queued":
                self.counts.queued += 1
            elif state.kind == "joined":
                self.counts.joined += 1
            elif state.kind == "known":
                self.take_result(entry, state.result)
            elif (known := decode_cached(state.result)) is not None:
                # If it had been accepted before, it was computed while its requests waited.
                self.resolve(entry, known._replace(cached=new))
            else:
                self.counts.malformed += 1
                self._enqueue_without_cache([entry])

    def _refused(self, entries: Sequence[PendingEntry], error: BaseException) -> None:
        if entries[0].revision and refused_cache(error):
            message, extra = "reading the cache separately from now on: %s", {"action": "cache.apart"}
            log.warning(message, reason(error), extra=extra)
            self.may_look = False
            self._enqueue_without_cache(entries)
            return
        if not refused(error):
            self.lost(error)
        log.warning("Redis refused to enqueue: %s", reason(error), extra={"action": "enqueue.refused"})
        self._shed(entries, QueueUnavailable(FULL if full(error) else REFUSED, retry_after_s=1.0))

    def _enqueue_without_cache(self, entries: Sequence[PendingEntry]) -> None:
        for entry in entries:
            entry.revision = ""
        self._enqueue(entries)

    def _full(self, entries: Sequence[PendingEntry], number: int, waiting: int, now: float) -> None:
        """Refuses what only this command enqueues. Requests that may be admitted wait for the rest."""
        cost = sum(estimate_cost(entry.text) for entry in entries)
        refusal = self._admission.queue_full(entries[0].lane, waiting, cost, now)
        # If none is new, Redis must have lost some that it had accepted.
        fresh = [entry for entry in entries if entry.asked_at == math.inf]
        self._shed([entry for entry in fresh or entries if entry.enqueue == number], refusal)

    def _shed(self, entries: Sequence[PendingEntry], refusal: MillraceError) -> None:
        for entry in entries:
            self.counts.shed += 1
            self.resolve(entry, refusal)

    def _cancel(self) -> None:
        """Cancels entries, except those that a new request waits for by now."""
        ids, self._unwanted = [one for one in self._unwanted if one not in self.pending], []
        for at in range(0, len(ids) if self._outage.over else 0, CANCEL_MOST):
            some = ids[at : at + CANCEL_MOST]
            self._pipeline.run(Cancel(self._api, some)).add_done_callback(partial(self._cancelled, len(some)))

    def _cancelled(self, count: int, asked: asyncio.Future[int]) -> None:
        if (error := asked.exception()) and not refused(error):
            self.lost(error)
        else:
            self.counts.cancelled += count

    def take_result(self, entry: PendingEntry, raw: bytes) -> None:
        """Decodes the result that a worker or a script wrote, and resolves the pending entry with it."""
        try:
            result = decode_result(raw)
        except Malformed:
            self.counts.malformed += 1
            return
        outcome = result if isinstance(result, Prediction) else result.error()
        if isinstance(outcome, BudgetExceeded):
            self.again(entry)  # it may be another caller's deadline that has passed, not this one's
        else:
            self.resolve(entry, outcome)

    def resolve(self, entry: PendingEntry, outcome: Outcome) -> None:
        """Passes the outcome to the requests that wait. A later request enqueues the text again."""
        if not entry.future.done():
            resolve(entry.future, outcome)
        self._forget(entry)

    def resolve_all(self, outcome: Outcome) -> None:
        for entry in list(self.pending.values()):
            self.resolve(entry, outcome)

    def lost(self, error: BaseException) -> None:
        """Reports that Redis did not answer. Pending requests fail once the outage has lasted for a while."""
        self._outage.lost(error)
        if self._outage.seconds > OUTAGE_GRACE_S:
            self.resolve_all(QueueUnavailable("the queue is unavailable; try again", retry_after_s=1.0))

    def _forget(self, entry: PendingEntry) -> None:
        if self.pending.get(entry.id) is entry:
            del self.pending[entry.id]
