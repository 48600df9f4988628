"""The reply hub: one per API process, it asks the queue and hands each answer to the requests that wait.

What happens in order: admit -> enqueue (shared round trip) -> hint, or slow poll if it was lost -> answer.
Request tasks only await futures; every Redis command runs in a task of the hub, which nobody cancels.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from batcher.coalesce import Coalescer
from batcher.connect import connect_async
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    Malformed,
    MillraceError,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)
from batcher.messages import (
    NO_SNAPSHOT,
    Lane,
    Prediction,
    Snapshot,
    decode_result,
    estimate_cost,
)
from batcher.outage import REDIS_ERRORS, Outage
from batcher.policy import PolicyWatch
from batcher.redis_queue import ApiQueue, Command, queue_states
from batcher.settings import QueueSettings

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
RETRY_EVERY_S = 0.1
POLL_EVERY_S = 0.3
POLL_MOST = 500
HINT_BLOCK_S = 1.0
HINTS_MOST = 512
# An outage shorter than this is ridden out by those who wait already; new requests are refused at once.
OUTAGE_GRACE_S = 0.8
# Admit only what will be claimed within this share of its budget: the rest is for the run itself.
ADMIT_SHARE = 0.5
RETRY_MOST_S = 60.0
# Room above the cap that is kept for clients with little waiting: this part of it.
FIRST_SHARE = 4
Outcome = Prediction | MillraceError


@dataclass(slots=True, eq=False)
class _Waiter:
    """One id that `waiting` requests of this process wait for. Its future never holds an exception."""

    id: str
    text: str
    lane: Lane
    trace: str
    future: asyncio.Future[Outcome]
    deadline: float
    asked_at: float
    first: bool = False
    waiting: int = 0


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


@dataclass(frozen=True, slots=True)
class LaneCaps:
    """Waiting cost, in estimated tokens, above which each lane sheds."""

    interactive: int
    bulk: int


class ReplyHub:
    """Asks the queue on behalf of all requests of one process, and gives each text its one answer.

    `client` runs scripts, `hint_client` is for the blocking pop alone.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        hint_client: redis.asyncio.Redis,
        *,
        name: str,
        caps: LaneCaps,
        max_attempts: int = 3,
    ) -> None:
        api = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"
        self.queue = ApiQueue(client, name, api, max_attempts)
        self.snapshot: Snapshot = NO_SNAPSHOT
        self.counts = HubCounts()
        self._clients = (client, hint_client)
        self._caps = caps
        self._waiters: dict[str, _Waiter] = {}
        self._asks: Coalescer[list[_Waiter], None] = Coalescer(self._enqueue)
        self._cancels: Coalescer[str, None] = Coalescer(self._cancel)
        self._loops: list[asyncio.Task[None]] = []
        self.outage = Outage()
        self.policy = PolicyWatch()
        self._seen = asyncio.Event()
        self._stopping = False
        # Cost that was shed and told when to come back.
        self._promised = self._promised_at = 0.0

    @classmethod
    def connect(cls, settings: QueueSettings) -> ReplyHub:
        """A hub over clients of its own, for the Redis that the settings name."""
        url = settings.redis_url.get_secret_value()
        caps = LaneCaps(settings.max_waiting_cost, settings.max_waiting_cost_bulk)
        return cls(
            connect_async(url, timeout_s=1.0, retries=1),
            connect_async(url, timeout_s=HINT_BLOCK_S + 2.0, retries=0, connections=1),
            name=settings.name,
            caps=caps,
            max_attempts=settings.max_attempts,
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the loops. Succeeds with Redis away: they keep trying."""
        loops: Iterable[Coroutine[Any, Any, None]] = (self._sweeps(), self._hints(), self._polls())
        self._loops = [asyncio.create_task(loop) for loop in loops]
        await asyncio.wait([asyncio.create_task(self._seen.wait())], timeout=0.5)

    async def stop(self) -> None:
        """Ends the loops, then the clients. Whoever still waits gets QueueUnavailable."""
        self._stopping = True
        self._resolve_all(QueueUnavailable("this API process is stopping", retry_after_s=1.0))
        self._seen.set()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._asks.drain()
        await self._cancels.drain()
        for client in self._clients:
            await client.aclose()

    @property
    def alive(self) -> bool:
        """False once a loop has ended that should run."""
        return not any(task.done() for task in self._loops)

    @property
    def reachable(self) -> bool:
        """Redis answered lately."""
        return self.outage.over and self._seen.is_set()

    @property
    def waiting(self) -> int:
        """Ids that requests of this process wait for."""
        return len(self._waiters)

    # -- asking ------------------------------------------------------------------------------------

    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = "interactive",
        trace: str = "",
        first: bool = False,
    ) -> list[Outcome]:
        """The outcome of each text, in order. Safe to cancel: what nobody else waits for leaves the queue.

        `first`: of a client with little waiting, to be claimed before those who have much.

        An EntryFailed or EntryPoisoned stands in its text's place. Raises QueueFull, NoWorker or
        QueueUnavailable when refused, BudgetExceeded when `budget_s` ends first.
        """
        self._admit()
        deadline = asyncio.get_running_loop().time() + budget_s
        held = self._hold(zip(ids, texts, strict=True), deadline, lane, trace, first)
        try:
            _, pending = await asyncio.wait([waiter.future for waiter in held.values()], timeout=budget_s)
            if pending:
                self.counts.expired += len(pending)
                raise BudgetExceeded(f"no result within the budget of {budget_s:g} s")
            outcomes = [held[entry].future.result() for entry in ids]
        finally:
            self._let_go(held.values())
        for outcome in outcomes:
            if isinstance(outcome, MillraceError) and not isinstance(outcome, (EntryFailed, EntryPoisoned)):
                raise outcome.with_traceback(None)
        return outcomes

    def _admit(self) -> None:
        if not self.reachable or self._stopping:
            raise QueueUnavailable("the queue does not answer; try again shortly", retry_after_s=1.0)
        if not self.snapshot.workers:
            raise NoWorker("no worker is alive; try again shortly", retry_after_s=2.0)

    def _hold(
        self, items: Iterable[tuple[str, str]], deadline: float, lane: Lane, trace: str, first: bool
    ) -> dict[str, _Waiter]:
        loop = asyncio.get_running_loop()
        held: dict[str, _Waiter] = {}
        ask: list[_Waiter] = []
        for entry, text in items:
            if entry in held:
                continue
            waiter = self._waiters.get(entry)
            if waiter is None or waiter.future.done():
                future: asyncio.Future[Outcome] = loop.create_future()
                waiter = _Waiter(entry, text, lane, trace, future, deadline, loop.time(), first)
                self._waiters[entry] = waiter
                ask.append(waiter)
            elif (
                deadline > waiter.deadline + 0.001
                or (first and not waiter.first)
                or (lane == "interactive" and waiter.lane == "bulk")
            ):
                waiter.deadline = max(deadline, waiter.deadline)
                waiter.lane = lane
                waiter.first |= first
                ask.append(waiter)
            waiter.waiting += 1
            held[entry] = waiter
        if ask:
            self._asks.ask(ask)
        return held

    def _let_go(self, held: Iterable[_Waiter]) -> None:
        for waiter in held:
            waiter.waiting -= 1
            if waiter.waiting:
                continue
            if self._waiters.get(waiter.id) is waiter:
                del self._waiters[waiter.id]
            if not waiter.future.done():
                waiter.future.cancel()
                if not self._stopping:
                    self._cancels.ask(waiter.id)

    # -- what travels to Redis ---------------------------------------------------------------------

    def _cap(self, lane: Lane, budget_s: float) -> int:
        """Waiting cost that will be claimed in time: the setting, or less where the workers are slower."""
        cap: int = getattr(self._caps, lane)
        rate = self.snapshot.rate
        return cap if lane == "bulk" or rate <= 0 else min(cap, int(rate * budget_s * ADMIT_SHARE) + 1)

    def _ask_command(self, waiters: Sequence[_Waiter]) -> Command:
        first = waiters[0]
        budget_s = max(first.deadline - asyncio.get_running_loop().time(), 0.001)
        items = [(waiter.id, waiter.text, estimate_cost(waiter.text)) for waiter in waiters]
        cap = self._cap(first.lane, budget_s)
        if first.first:
            cap += cap // FIRST_SHARE  # whoever fills the lane must not keep the others out
        return self.queue.enqueue(
            items, first.lane, int(budget_s * 1000), cap, first.trace, first=first.first
        )

    def _retry_after(self, waiting_cost: int, cost: int) -> float:
        """When what waits and what was shed before will have drained, so that not all come back at once."""
        rate = self.snapshot.rate
        if rate <= 0:
            return 1.0
        now = asyncio.get_running_loop().time()
        drained = rate * (now - self._promised_at)
        self._promised = min(max(self._promised - drained, 0.0) + cost, rate * RETRY_MOST_S)
        self._promised_at = now
        return min(max((waiting_cost + self._promised) / rate, 1.0), RETRY_MOST_S)

    async def _enqueue(self, asks: Sequence[list[_Waiter]]) -> list[Exception | None]:
        """Sends the asks of one tick. Their outcomes go to the waiters' futures, errors included."""
        try:
            answers = await self.queue.run([self._ask_command(waiters) for waiters in asks])
            self.counts.round_trips += 1
        except REDIS_ERRORS as error:
            self._lost(error)
            answers = [error] * len(asks)
        for waiters, answer in zip(asks, answers, strict=True):
            self._take_answer(waiters, answer)
        return [None] * len(asks)

    def _take_answer(self, waiters: Sequence[_Waiter], answer: Any) -> None:
        refusal: MillraceError
        try:
            if isinstance(answer, Exception):
                log.warning("enqueue refused: %s", answer, extra={"action": "enqueue.refused"})
                raise QueueUnavailable("the queue does not accept work", retry_after_s=1.0)
            cost = sum(estimate_cost(waiter.text) for waiter in waiters)
            states = queue_states(answer, lambda waiting: self._retry_after(waiting, cost))
        except (QueueFull, QueueUnavailable) as error:
            refusal = error
            self.counts.shed += len(waiters)
            for waiter in waiters:
                self._resolve(waiter, refusal)
            return
        for waiter, state in zip(waiters, states, strict=True):
            if waiter.future.cancelled() and waiter.id not in self._waiters:
                self._cancels.ask(waiter.id)  # let go while the ask was under way: its cancel came too early
            if state == b"queued":
                self.counts.queued += 1
            elif state == b"joined":
                self.counts.joined += 1
            else:
                self._take_result(waiter, state)

    async def _cancel(self, ids: Sequence[str]) -> list[Exception | None]:
        """Withdraws ids, unless a request has come meanwhile that waits for them."""
        gone = [entry for entry in ids if entry not in self._waiters]
        if gone and self.reachable:
            try:
                await self.queue.run([self.queue.cancel(gone)])
                self.counts.cancelled += len(gone)
            except REDIS_ERRORS as error:
                self._lost(error)
        return [None] * len(ids)

    # -- what comes back ---------------------------------------------------------------------------

    def _take_result(self, waiter: _Waiter, raw: bytes) -> None:
        try:
            result = decode_result(raw)
        except Malformed:
            self.counts.malformed += 1
            return
        if isinstance(result, Prediction):
            self._resolve(waiter, result)
            return
        error = result.error()
        if not isinstance(error, BudgetExceeded):
            self._resolve(waiter, error)
        elif waiter.deadline - asyncio.get_running_loop().time() > 0.02:
            self._ask_again([waiter])  # the deadline that ended was another caller's

    def _resolve(self, waiter: _Waiter, outcome: Outcome) -> None:
        if not waiter.future.done():
            waiter.future.set_result(outcome)
        if self._waiters.get(waiter.id) is waiter:
            del self._waiters[waiter.id]

    def _resolve_all(self, outcome: Outcome) -> None:
        for waiter in list(self._waiters.values()):
            self._resolve(waiter, outcome)

    def _ask_again(self, waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            self.counts.asked_again += 1
            self._asks.ask([waiter])

    async def _hints(self) -> None:
        """Pops hints and resolves futures. A lost hint costs POLL_EVERY_S, no more."""
        client = self._clients[1]
        while not self._stopping:
            await self._seen.wait()
            try:
                hints = await self.queue.hints(client, HINT_BLOCK_S, HINTS_MOST)
            except REDIS_ERRORS as error:
                self._lost(error)
                await asyncio.sleep(RETRY_EVERY_S)
                continue
            for hint in hints:
                entry, _, raw = hint.partition(b"\n")
                waiter = self._waiters.get(entry.decode("ascii", "replace"))
                if waiter is not None:
                    self.counts.hinted += 1
                    self._take_result(waiter, raw)

    async def _polls(self) -> None:
        """Looks for results whose hints were lost, and asks again for ids that Redis has lost."""
        while not self._stopping:
            await asyncio.sleep(POLL_EVERY_S)
            before = asyncio.get_running_loop().time() - POLL_EVERY_S
            late = [waiter for waiter in self._waiters.values() if waiter.asked_at < before]
            for at in range(0, len(late) if self.reachable else 0, POLL_MOST):
                await self._poll(late[at : at + POLL_MOST])

    async def _poll(self, waiters: Sequence[_Waiter]) -> None:
        try:
            (answer,) = await self.queue.run([self.queue.outcomes(waiter.id for waiter in waiters)])
        except REDIS_ERRORS as error:
            self._lost(error)
            return
        if isinstance(answer, Exception):
            return
        for waiter, state in zip(waiters, answer, strict=True):
            if waiter.future.done() or state == b"waiting":
                continue
            if state == b"gone":
                self._ask_again([waiter])
            else:
                self.counts.polled += 1
                self._take_result(waiter, state)

    async def _sweeps(self) -> None:
        """Sweeps each second, so that recovery works with no worker alive; notices outages and returns."""
        while not self._stopping:
            try:
                self.snapshot = await self.queue.sweep()
                if not self.reachable:
                    await self.policy.look(self._clients[0])
                self.counts.recovered += self.snapshot.recovered
                self.outage.found()
                self._seen.set()
                await asyncio.sleep(SWEEP_EVERY_S * random.uniform(0.8, 1.0))
            except REDIS_ERRORS as error:
                self._lost(error)
                await asyncio.sleep(RETRY_EVERY_S)

    def _lost(self, error: Exception) -> None:
        self.outage.lost(error)
        if self.outage.seconds > OUTAGE_GRACE_S:
            self._resolve_all(QueueUnavailable("the queue does not answer", retry_after_s=1.0))
