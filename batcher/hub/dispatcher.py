"""Enqueues and cancels entries for the hub, and resolves pending entries with the replies of Redis.

Requests made within one tick of the event loop share a round trip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batcher.core.coalescer import Coalescer
from batcher.core.outage import REDIS_ERRORS, Outage, reason
from batcher.core.producer import ApiQueue, queue_states, refused_cache
from batcher.core.scripts import Command
from batcher.errors import BudgetExceeded, Malformed, QueueFull, QueueUnavailable
from batcher.hub.admission import Admission
from batcher.hub.pending import PendingEntries, PendingEntry
from batcher.messages import Prediction, decode_cached, decode_result, estimate_cost

log = logging.getLogger(__name__)

# Pending requests survive an outage shorter than this. New requests are refused at once.
OUTAGE_GRACE_S = 0.8
# Approximate size of a round trip, far below what keeps Redis busy for a second, and the overhead per text.
LOAD_BYTES = 2 << 20
TEXT_BYTES = 128


@dataclass(slots=True)
class HubCounts:
    """Counters for the metrics of this process. They count entries, except `round_trips`."""

    queued: int = 0
    joined: int = 0
    shed: int = 0
    expired: int = 0
    cancelled: int = 0
    hinted: int = 0
    polled: int = 0
    asked_again: int = 0
    malformed: int = 0
    recovered: int = 0
    round_trips: int = 0


class Dispatcher:
    """Enqueues and cancels the entries of one API process. `rate` is the workers' total cost per second."""

    def __init__(
        self,
        queue: ApiQueue,
        pending: PendingEntries,
        outage: Outage,
        admission: Admission,
        rate: Callable[[], float],
    ) -> None:
        self.counts = HubCounts()
        self._queue = queue
        self._pending = pending
        self._outage = outage
        self._admission = admission
        self._rate = rate
        # False once Redis has refused to read cached results within a script.
        self.may_look = True
        self._enqueues: Coalescer[Sequence[PendingEntry], None] = Coalescer(
            self._enqueue, size=_bytes_of, max_size=LOAD_BYTES
        )
        # Cancellations are sent one batch at a time. An enqueue of an id that is being cancelled is held back
        # until then: over two connections, the cancellation could arrive last and delete the new entry.
        self._cancellations: Coalescer[str, None] = Coalescer(self._cancel, max_in_flight=1)
        self._cancelling: frozenset[str] = frozenset()
        self._held_back: list[Sequence[PendingEntry]] = []

    def ask(self, entries: Sequence[PendingEntry]) -> None:
        """Enqueues the entries of one request, or joins existing ones. Their futures receive the outcome."""
        if not self._cancelling.isdisjoint(entry.id for entry in entries):
            self._held_back.append(entries)
        elif entries:
            self._enqueues.ask(entries)

    def again(self, entry: PendingEntry) -> None:
        """Enqueues an entry again that was lost, or expired by the deadline of another, if time is left."""
        if entry.deadline - asyncio.get_running_loop().time() > 0.02:
            self.counts.asked_again += 1
            self.ask([entry])

    def withdraw(self, ids: Iterable[str]) -> None:
        """Cancels entries that no request of this process waits for any more."""
        for entry_id in ids:
            self._cancellations.ask(entry_id)

    async def drain(self) -> None:
        """Waits until every command has been answered."""
        await self._cancellations.drain()
        await self._enqueues.drain()

    def lost(self, error: Exception) -> None:
        """Reports that Redis did not answer. Pending requests fail once the outage has lasted for a while."""
        self._outage.lost(error)
        if self._outage.seconds > OUTAGE_GRACE_S:
            self._pending.resolve_all(QueueUnavailable("the queue is unavailable", retry_after_s=1.0))

    def take_result(self, entry: PendingEntry, raw: bytes) -> None:
        """Decodes the result that a worker or a script wrote, and resolves the pending entry with it."""
        try:
            result = decode_result(raw)
        except Malformed:
            self.counts.malformed += 1
            return
        if isinstance(result, Prediction):
            self._pending.resolve(entry, result)
            return
        error = result.error()
        if isinstance(error, BudgetExceeded):
            self.again(entry)  # it may be another caller's deadline that has passed, not this one's
        else:
            self._pending.resolve(entry, error)

    async def _enqueue(self, requests: Sequence[Sequence[PendingEntry]]) -> list[Exception | None]:
        """Enqueues the requests of one tick. Their outcomes, including errors, go to the entries' futures."""
        try:
            answers = await self._queue.run([self._command(entries) for entries in requests])
            self.counts.round_trips += 1
        except REDIS_ERRORS as error:
            self.lost(error)
            answers = [error] * len(requests)
        for entries, answer in zip(requests, answers, strict=True):
            self._take_reply(entries, answer)
        return [None] * len(requests)

    def _command(self, entries: Sequence[PendingEntry]) -> Command:
        one = entries[0]
        budget_s = max(one.deadline - asyncio.get_running_loop().time(), 0.001)
        items = [(entry.id, entry.text, estimate_cost(entry.text)) for entry in entries]
        cap = self._admission.cap(one.lane, one.first, budget_s, self._rate())
        budget_ms = int(budget_s * 1000)
        return self._queue.enqueue(
            items, one.lane, budget_ms, cap, one.trace, first=one.first, revision=one.revision
        )

    def _take_reply(self, entries: Sequence[PendingEntry], answer: Any) -> None:
        if entries[0].revision and refused_cache(answer):
            why = reason(answer)
            log.warning("reading the cache separately from now on: %s", why, extra={"action": "cache.apart"})
            self.may_look = False
            self._enqueue_without_cache(entries)
            return
        try:
            if isinstance(answer, Exception):
                extra = {"action": "enqueue.refused"}
                log.warning("Redis refused to enqueue: %s", reason(answer), extra=extra)
                raise QueueUnavailable("the queue does not accept work", retry_after_s=1.0)
            states = queue_states(answer, lambda waiting: self._retry_after_s(waiting, entries))
        except (QueueFull, QueueUnavailable) as refusal:
            refusal.__traceback__ = None  # it refers to this frame: a reference cycle with the entries
            self.counts.shed += len(entries)
            for entry in entries:
                self._pending.resolve(entry, refusal)
            return
        now = asyncio.get_running_loop().time()
        for entry, state in zip(entries, states, strict=True):
            entry.asked(now)
            if entry.future.cancelled() and entry.id not in self._pending:
                self.withdraw([entry.id])  # cancelled before the enqueue arrived: cancel it again
            if state == b"queued":
                self.counts.queued += 1
            elif state == b"joined":
                self.counts.joined += 1
            elif isinstance(state, bytes):
                self.take_result(entry, state)
            else:
                self._take_cached(entry, state[0])

    def _take_cached(self, entry: PendingEntry, raw: bytes) -> None:
        """Resolves an entry with a cached result. An unreadable one counts as a miss."""
        known = decode_cached(raw)
        if known is not None:
            self._pending.resolve(entry, known)
        else:
            self.counts.malformed += 1
            self._enqueue_without_cache([entry])

    def _enqueue_without_cache(self, entries: Sequence[PendingEntry]) -> None:
        for entry in entries:
            entry.revision = ""
        self.ask(entries)

    def _retry_after_s(self, waiting_cost: int, entries: Sequence[PendingEntry]) -> float:
        cost = sum(estimate_cost(entry.text) for entry in entries)
        now = asyncio.get_running_loop().time()
        return self._admission.retry_after_s(waiting_cost, cost, self._rate(), now)

    async def _cancel(self, ids: Sequence[str]) -> list[Exception | None]:
        """Cancels ids, except those that a new request waits for by now."""
        unwanted = [entry_id for entry_id in ids if entry_id not in self._pending]
        if unwanted and self._outage.over:
            self._cancelling = frozenset(unwanted)
            try:
                await self._queue.run([self._queue.cancel(unwanted)])
                self.counts.cancelled += len(unwanted)
            except REDIS_ERRORS as error:
                self.lost(error)
            finally:
                self._cancelling = frozenset()
            held_back, self._held_back = self._held_back, []
            for entries in held_back:
                self.ask([entry for entry in entries if self._pending.get(entry.id) is entry])
        return [None] * len(ids)


def _bytes_of(entries: Sequence[PendingEntry]) -> int:
    """Approximate size of a request's texts in transit, at most four bytes per character."""
    return sum(TEXT_BYTES + len(entry.text) * (1 if entry.text.isascii() else 4) for entry in entries)
