"""What the hub asks of the queue: entries are enqueued and withdrawn; what Redis answers reaches who waits.

What is asked within one tick of the event loop shares a round trip.
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

# An outage shorter than this is ridden out by those who wait already; new requests are refused at once.
OUTAGE_GRACE_S = 0.8
# Bytes that share a round trip, about: far from what takes Redis a second. Each text adds some to its own.
LOAD_BYTES = 2 << 20
TEXT_BYTES = 128


@dataclass(slots=True)
class HubCounts:
    """What this process has asked and met, for its metrics. Counts of entries, but for the last."""

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
    """The asks of one API process. `rate` is the cost that the workers get done in a second."""

    def __init__(
        self,
        queue: ApiQueue,
        waiters: PendingEntries,
        outage: Outage,
        admission: Admission,
        rate: Callable[[], float],
    ) -> None:
        self.counts = HubCounts()
        self._queue = queue
        self._waiters = waiters
        self._outage = outage
        self._admission = admission
        self._rate = rate
        # False once Redis has refused to read long-lived results within a script.
        self.may_look = True
        self._asks: Coalescer[Sequence[PendingEntry], None] = Coalescer(
            self._enqueue, size=_bytes_of, most_size=LOAD_BYTES
        )
        # One at a time, so that it is known which ids are being withdrawn. An ask of one of them waits until
        # then: over two connections they might arrive in the other order, and the entry would be gone.
        self._withdrawals: Coalescer[str, None] = Coalescer(self._cancel, flights=1)
        self._leaving: frozenset[str] = frozenset()
        self._behind: list[Sequence[PendingEntry]] = []

    def ask(self, waiters: Sequence[PendingEntry]) -> None:
        """Enqueues the entries of one request, or joins who waits already. The futures tell the rest."""
        if not self._leaving.isdisjoint(waiter.id for waiter in waiters):
            self._behind.append(waiters)
        elif waiters:
            self._asks.ask(waiters)

    def again(self, waiter: PendingEntry) -> None:
        """Enqueues an entry that was lost, or that another caller's deadline ended."""
        self.counts.asked_again += 1
        self.ask([waiter])

    def withdraw(self, ids: Iterable[str]) -> None:
        """Takes entries out of the queue that nobody here waits for any more."""
        for entry in ids:
            self._withdrawals.ask(entry)

    async def drain(self) -> None:
        """Waits until nothing is under way."""
        await self._withdrawals.drain()
        await self._asks.drain()

    def lost(self, error: Exception) -> None:
        """Redis did not answer. Who waits is told once that has lasted."""
        self._outage.lost(error)
        if self._outage.seconds > OUTAGE_GRACE_S:
            self._waiters.resolve_all(QueueUnavailable("the queue does not answer", retry_after_s=1.0))

    def take_result(self, waiter: PendingEntry, raw: bytes) -> None:
        """The result of an entry, as a worker or a script wrote it, reaches those who wait for it."""
        try:
            result = decode_result(raw)
        except Malformed:
            self.counts.malformed += 1
            return
        if isinstance(result, Prediction):
            self._waiters.resolve(waiter, result)
            return
        error = result.error()
        if not isinstance(error, BudgetExceeded):
            self._waiters.resolve(waiter, error)
        elif waiter.deadline - asyncio.get_running_loop().time() > 0.02:
            self.again(waiter)  # the deadline that ended was another caller's

    async def _enqueue(self, asks: Sequence[Sequence[PendingEntry]]) -> list[Exception | None]:
        """Sends the asks of one tick. Their outcomes go to the waiters' futures, errors included."""
        try:
            answers = await self._queue.run([self._command(waiters) for waiters in asks])
            self.counts.round_trips += 1
        except REDIS_ERRORS as error:
            self.lost(error)
            answers = [error] * len(asks)
        for waiters, answer in zip(asks, answers, strict=True):
            self._take_answer(waiters, answer)
        return [None] * len(asks)

    def _command(self, waiters: Sequence[PendingEntry]) -> Command:
        one = waiters[0]
        budget_s = max(one.deadline - asyncio.get_running_loop().time(), 0.001)
        items = [(waiter.id, waiter.text, estimate_cost(waiter.text)) for waiter in waiters]
        cap = self._admission.cap(one.lane, one.first, budget_s, self._rate())
        budget_ms = int(budget_s * 1000)
        return self._queue.enqueue(
            items, one.lane, budget_ms, cap, one.trace, first=one.first, revision=one.revision
        )

    def _take_answer(self, waiters: Sequence[PendingEntry], answer: Any) -> None:
        if waiters[0].revision and refused_cache(answer):
            log.warning("the cache is looked into apart: %s", reason(answer), extra={"action": "cache.apart"})
            self.may_look = False
            self._ask_without_look(waiters)
            return
        try:
            if isinstance(answer, Exception):
                log.warning("enqueue refused: %s", reason(answer), extra={"action": "enqueue.refused"})
                raise QueueUnavailable("the queue does not accept work", retry_after_s=1.0)
            states = queue_states(answer, lambda waiting: self._retry_after_s(waiting, waiters))
        except (QueueFull, QueueUnavailable) as refusal:
            refusal.__traceback__ = None  # it holds this frame, and so the waiters, which are to hold it
            self.counts.shed += len(waiters)
            for waiter in waiters:
                self._waiters.resolve(waiter, refusal)
            return
        now = asyncio.get_running_loop().time()
        for waiter, state in zip(waiters, states, strict=True):
            waiter.asked(now)
            if waiter.future.cancelled() and waiter.id not in self._waiters:
                self.withdraw([waiter.id])  # let go while the ask was under way: its cancel came too early
            if state == b"queued":
                self.counts.queued += 1
            elif state == b"joined":
                self.counts.joined += 1
            elif isinstance(state, bytes):
                self.take_result(waiter, state)
            else:
                self._take_known(waiter, state[0])

    def _take_known(self, waiter: PendingEntry, raw: bytes) -> None:
        """A long-lived result; what cannot be read as one counts as none."""
        known = decode_cached(raw)
        if known is not None:
            self._waiters.resolve(waiter, known)
        else:
            self.counts.malformed += 1
            self._ask_without_look([waiter])

    def _ask_without_look(self, waiters: Sequence[PendingEntry]) -> None:
        for waiter in waiters:
            waiter.revision = ""
        self.ask(waiters)

    def _retry_after_s(self, waiting_cost: int, waiters: Sequence[PendingEntry]) -> float:
        cost = sum(estimate_cost(waiter.text) for waiter in waiters)
        now = asyncio.get_running_loop().time()
        return self._admission.retry_after_s(waiting_cost, cost, self._rate(), now)

    async def _cancel(self, ids: Sequence[str]) -> list[Exception | None]:
        """Withdraws ids, unless a request has come meanwhile that waits for them."""
        gone = [entry for entry in ids if entry not in self._waiters]
        if gone and self._outage.over:
            self._leaving = frozenset(gone)
            try:
                await self._queue.run([self._queue.cancel(gone)])
                self.counts.cancelled += len(gone)
            except REDIS_ERRORS as error:
                self.lost(error)
            finally:
                self._leaving = frozenset()
            behind, self._behind = self._behind, []
            for waiters in behind:
                self.ask([waiter for waiter in waiters if self._waiters.get(waiter.id) is waiter])
        return [None] * len(ids)


def _bytes_of(waiters: Sequence[PendingEntry]) -> int:
    """What the texts of an ask take on their way, about: at most four bytes a character."""
    return sum(TEXT_BYTES + len(waiter.text) * (1 if waiter.text.isascii() else 4) for waiter in waiters)
