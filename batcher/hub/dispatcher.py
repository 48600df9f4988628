"""Enqueues and cancels the entries that requests of an API process wait for. Equal texts share an entry."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from batcher.connection.outage import (
    FULL,
    REFUSED,
    Outage,
    full,
    reason,
    refused,
    refused_cache,
)
from batcher.connection.pipeline import Pipeline
from batcher.core.commands import (
    Accepted,
    Cancel,
    Enqueue,
    EnqueueAll,
    Enqueued,
    Full,
    Wake,
    Waking,
)
from batcher.core.holds import Pause, in_force
from batcher.core.keys import cache_prefix
from batcher.errors import (
    BudgetExceeded,
    Malformed,
    MillraceError,
    Paused,
    QueueFull,
    QueueUnavailable,
)
from batcher.hub.pending import HubCounts, PendingEntry, Waiter
from batcher.messages import Failure, Lane, Outcome, Prediction, decode_cached, decode_result

# Admit only what will be claimed within this share of its budget: the batch itself needs the rest.
ADMIT_SHARE = 0.5
# Clients with little waiting (`first`) may exceed the cap by one part in this many.
FIRST_SHARE = 4
RETRY_MAX_S = 60.0
# Retry-After counts on this share of the measured rate: it has whole seconds, so many clients retry at once,
# and new requests arrive meanwhile.
PROMISED_SHARE = 0.75
# Entries that still wait after this time need another worker: a healthy one claims within a few ms.
WAKE_AGAIN_S = 0.015
log = logging.getLogger(__name__)
# Pending requests survive an outage shorter than this. New requests are refused at once.
OUTAGE_GRACE_S = 0.8
# Results are polled after this time in case a hint was lost.
LOOK_S = 0.3
MAX_CANCELLED = 512  # entries that one command cancels
MAX_TOGETHER = 2048  # estimated tokens from which on the next request goes with a separate command


class Admission:
    """How much may wait in each lane for one API process, and the cost it has shed but expects back.

    `caps` are in estimated tokens, and `rate` is in these per second.
    """

    def __init__(self, caps: Mapping[str, int]) -> None:
        self.caps = caps
        self.rate = 0.0
        self.pauses: Mapping[str, Pause] = {}
        # Cost that was shed with a Retry-After, less what the workers could have done since.
        self._promised = self._promised_at = 0.0

    def check(self, lane: Lane, budget_s: float) -> None:
        """Raises Paused if the lane is paused and takes no request with this budget."""
        pause = self.pauses.get(lane)
        if pause is not None and not pause.admits(budget_s):
            raise _paused(pause)

    def cap(self, lane: Lane, first: bool, budget_s: float) -> int:
        """The waiting cost that can be claimed in time: the setting, or less if the workers are slower."""
        cap = self.caps[lane]
        if lane == "interactive" and self.rate > 0:
            able_s = max(budget_s - self.pause_s(lane), 0.0)
            cap = min(cap, int(self.rate * able_s * ADMIT_SHARE) + 1)
        return cap + cap // FIRST_SHARE if first else cap

    def refusals(self) -> Iterator[tuple[str, Paused]]:
        """The lanes whose waiting texts are refused, and the refusal."""
        for lane, pause in self.pauses.items():
            if pause.waiting == "refuse" and pause.left_s:
                yield lane, _paused(pause)

    def pause_s(self, lane: Lane) -> float:
        """For how long workers claim nothing from the lane."""
        pause = self.pauses.get(lane)
        return 0.0 if pause is None else pause.left_s

    def queue_full(self, lane: Lane, waiting: int, cost: int, now: float) -> QueueFull:
        """The refusal of a request of this `cost`."""
        wait_s = self.retry_after_s(waiting, cost, now) + self.pause_s(lane)
        detail = f"the queue is full: {waiting} tokens of text are waiting; try again later"
        return QueueFull(detail, retry_after_s=wait_s)

    def retry_after_s(self, waiting: int, cost: int, now: float) -> float:
        """Seconds until the waiting cost and all cost shed before have drained, which spreads retries."""
        rate = self.rate * PROMISED_SHARE
        if rate <= 0:
            return 1.0
        drained = rate * (now - self._promised_at)
        self._promised = min(max(self._promised - drained, 0.0) + cost, rate * RETRY_MAX_S)
        self._promised_at = now
        return min(max((waiting + self._promised) / rate, 1.0), RETRY_MAX_S)


def _paused(pause: Pause) -> Paused:
    return Paused("an operator has paused this work; try again later", retry_after_s=pause.left_s)


def estimate_cost(text: str) -> int:
    """Estimates the tokens of a text: 4.4 characters per token, plus the two special tokens."""
    return 2 + (len(text) * 10 + 43) // 44


class WakeUps:
    """Checks a while after an enqueue whether the worker that was woken has claimed. `pending`: by id.

    With several shards, `ask_for_help` is called with the age of the first entry in ms while entries wait and
    no worker of this shard is idle. `idle` is how many were, by the last reply; -1 if there was none to wake.
    """

    def __init__(self, pipeline: Pipeline, pending: Mapping[str, PendingEntry]) -> None:
        self.ask_for_help: Callable[[int], None] | None = None
        self.idle = 0
        self._pipeline = pipeline
        self._pending = pending
        self._scheduled = False
        self._found = False

    def queued(self, idle: int) -> None:
        """Call it after an enqueue: `idle` workers are left, or -1 if there was none to wake."""
        self.idle = idle
        if self.ask_for_help is not None:
            if idle < 0:
                self.ask_for_help(0)
            self._check_in(WAKE_AGAIN_S)
        elif idle > 0:
            self._check_in(WAKE_AGAIN_S)

    def found_waiting(self) -> None:
        """Call it after a sweep that has found entries, perhaps of a process that has ended."""
        self._found = True
        self._check_in(WAKE_AGAIN_S)

    def _check_in(self, seconds: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        """Asks whether entries wait, if one of this process has been pending for long enough."""
        self._scheduled = False
        oldest = next(iter(self._pending.values()), None)
        waited = asyncio.get_running_loop().time() - oldest.asked_at if oldest is not None else 0.0
        if self._found or waited > 0.9 * WAKE_AGAIN_S:
            self._found = False
            self._pipeline.run(Wake()).add_done_callback(self._woken)
        elif oldest is not None:
            self._check_in(WAKE_AGAIN_S - max(waited, 0.0))

    def _woken(self, done: asyncio.Future[Waking]) -> None:
        if done.exception() is None:
            before, (self.idle, oldest_ms) = self.idle, done.result()
            # The last one that was idle may be gone: with several shards, others can help.
            last = before > self.idle == 0 and self.ask_for_help is not None
            if self.idle > 0 or last:
                self._check_in(WAKE_AGAIN_S)
            elif self.idle < 0 and self.ask_for_help is not None:
                self.ask_for_help(oldest_ms)
                self._check_in(WAKE_AGAIN_S)


class Asked(NamedTuple):
    """The entries of one request, the number that they have from then on, and the command for them."""

    entries: Sequence[PendingEntry]
    number: int
    command: Enqueue


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
        # That of the current model of all shards, if it is known.
        self.revision = ""
        self.wake_ups = WakeUps(pipeline, self.pending)
        self._last_write = self._enqueues = 0
        # What the next tick enqueues.
        self._unsent: list[Asked] = []
        self._unsent_ids: set[str] = set()
        self._unsent_cost = 0
        self._unwanted: list[str] = []

    def hold(self, waiter: Waiter, items: Iterable[tuple[str, str]]) -> dict[str, PendingEntry]:
        """Adds a request that waits for these (id, text). Returns its entries by id.

        An entry is enqueued if it is new, or if this request has a later deadline or a higher priority.
        """
        entries: dict[str, PendingEntry] = {}
        fresh: list[PendingEntry] = []
        changed: list[PendingEntry] = []
        deadline, lane, first = waiter.deadline, waiter.lane, waiter.first
        for entry_id, text in items:
            if entry_id in entries:
                continue
            entry = self.pending.get(entry_id)
            if entry is None:
                facts = (entry_id, text, lane, waiter.trace, deadline, first, waiter.revision, waiter.only)
                self.pending[entry_id] = entry = PendingEntry(*facts)
                fresh.append(entry)
            elif deadline > entry.deadline + 0.001 or first > entry.first or lane != entry.lane == "bulk":
                entry.deadline = max(deadline, entry.deadline)
                if lane == "interactive":
                    entry.lane = lane
                entry.first |= first
                changed.append(entry)
            entry.waiters.append(waiter)
            entries[entry_id] = entry
        waiter.left += len(entries)
        if fresh or changed:
            self._enqueue([*fresh, *changed])
        return entries

    def let_go(self, waiter: Waiter, entries: Iterable[PendingEntry]) -> None:
        """Removes a request. Cancels its entries without an outcome that no other request waits for."""
        for entry in entries:
            if entry.outcome is None:
                entry.waiters.remove(waiter)
                if not entry.waiters:
                    self._forget(entry)
                    self._withdraw(entry)

    def pause(self, pauses: Mapping[str, Pause]) -> None:
        """Applies the pauses of lanes. Withdraws from the queue the entries that they refuse."""
        self._admission.pauses = in_force(pauses)
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

        Other requests may have given the rest a later deadline, which the queue keeps, and priority, which
        entries without it do not gain. The requests of one tick share a command, which costs much less than
        one for each. Entries that no request waits for any more are left out: they are cancelled before this
        command.
        """
        if not (entries := [entry for entry in entries if entry.waiters]):
            return
        one = entries[0]
        deadline = min([entry.deadline for entry in entries])
        loop = asyncio.get_running_loop()
        budget_s = max(deadline - loop.time(), 0.001)
        texts = [entry.text for entry in entries]
        first = all(entry.first for entry in entries)
        command = Enqueue(
            [entry.id for entry in entries],
            texts,
            list(map(estimate_cost, texts)),
            self._api,
            one.lane,
            int(budget_s * 1000),
            self._admission.cap(one.lane, first, budget_s),
            one.trace,
            first,
            cache_prefix(self._cache_name, one.revision) if one.revision else "",
            one.only,
        )
        if self._unsent_cost >= MAX_TOGETHER or not self._unsent_ids.isdisjoint(command.ids):
            self._send()
        if not self._unsent:
            loop.call_soon(self._send)
        self._enqueues += 1
        for entry in entries:
            entry.enqueue = self._enqueues
        self._unsent.append(Asked(entries, self._enqueues, command))
        self._unsent_ids.update(command.ids)
        self._unsent_cost += sum(command.costs)

    def _send(self) -> None:
        asked, self._unsent, self._unsent_cost = self._unsent, [], 0
        self._unsent_ids.clear()
        if asked:
            reply = self._pipeline.run(EnqueueAll([one.command for one in asked], self.revision))
            reply.add_done_callback(partial(self._replied, asked, self._pipeline.writes))

    def _replied(self, asked: Sequence[Asked], write: int, done: asyncio.Future[list[Enqueued]]) -> None:
        if error := done.exception():
            self._send()
            for one in asked:
                # Redis may refuse what only one of them needs, such as memory.
                if len(asked) > 1 and refused(error):
                    self._enqueue(one.entries)
                    self._send()
                else:
                    self._refused(one.entries, error)
            return
        self.counts.round_trips += write != self._last_write
        self._last_write = write
        now = asyncio.get_running_loop().time()
        for one, enqueued in zip(asked, done.result(), strict=True):
            if isinstance(enqueued, Full):
                self._full(one.entries, one.number, enqueued.waiting, now)
            else:
                self._accepted(one.entries, enqueued, now)

    def _accepted(self, entries: Sequence[PendingEntry], enqueued: Accepted, now: float) -> None:
        self.wake_ups.queued(enqueued.idle)
        for entry, state in zip(entries, enqueued.states, strict=True):
            if new := entry.asked_at == math.inf:
                entry.asked_at = now
                entry.look_at = now + LOOK_S
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
            message = "reading the cache separately from now on: %s"
            log.warning(message, reason(error), extra={"action": "cache.apart"})
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
        self._send()
        ids = [one for one in self._unwanted if one not in self.pending]
        self._unwanted = []
        for at in range(0, len(ids) if self._outage.over else 0, MAX_CANCELLED):
            some = ids[at : at + MAX_CANCELLED]
            self._pipeline.run(Cancel(self._api, some)).add_done_callback(partial(self._cancelled, len(some)))

    def _cancelled(self, count: int, reply: asyncio.Future[int]) -> None:
        if (error := reply.exception()) and not refused(error):
            self.lost(error)
        else:
            self.counts.cancelled += count

    def take_hints(self, hints: Iterable[tuple[str, bytes]]) -> list[PendingEntry]:
        """Resolves entries with results by id. Returns those that a hint says have failed.

        A late hint may be about an earlier run, whose failure concerns no later request: ask Redis.
        """
        failed = []
        for entry_id, raw in hints:
            entry = self.pending.get(entry_id)
            if entry is None:
                continue
            self.counts.hinted += 1
            result = self._decoded(raw)
            if isinstance(result, Failure):
                failed.append(entry)
            elif result is not None:
                self.resolve(entry, result)
        return failed

    def take_result(self, entry: PendingEntry, raw: bytes) -> None:
        """Resolves a pending entry with the result that a worker or a script wrote."""
        result = self._decoded(raw)
        if result is None:
            return
        outcome = result if isinstance(result, Prediction) else result.error()
        if isinstance(outcome, BudgetExceeded):
            self.again(entry)  # it may be another caller's deadline that has passed, not this one's
        else:
            self.resolve(entry, outcome)

    def _decoded(self, raw: bytes) -> Prediction | Failure | None:
        """What a result means; None, and counted, if it is unreadable."""
        try:
            return decode_result(raw)
        except Malformed:
            self.counts.malformed += 1
            return None

    def resolve(self, entry: PendingEntry, outcome: Outcome) -> None:
        """Passes the outcome to the requests that wait, an exception if it ends all of them."""
        self._forget(entry)
        if entry.outcome is None:
            entry.outcome = outcome
            waiters, entry.waiters = entry.waiters, []
            for waiter in waiters:
                waiter.note(outcome)

    def resolve_all(self, outcome: Outcome) -> None:
        for entry in list(self.pending.values()):
            self.resolve(entry, outcome)

    def lost(self, error: BaseException) -> None:
        """Reports that Redis did not answer. Pending requests fail once the outage has lasted for a while."""
        self._outage.lost(error)
        if self._outage.seconds > OUTAGE_GRACE_S:
            said = f"the queue is unavailable: {self._outage.said}"
            self.resolve_all(QueueUnavailable(said, retry_after_s=1.0))

    def _forget(self, entry: PendingEntry) -> None:
        if self.pending.get(entry.id) is entry:
            del self.pending[entry.id]
