"""The reply hub: one per API process, it asks the queue and hands each answer to the requests that wait.

What happens in order: admit -> enqueue (shared round trip) -> hint, or slow poll if it was lost -> answer.
Request tasks only await futures; every Redis command runs in a task of the hub, which nobody cancels.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Coroutine, Iterable, Sequence
from copy import copy
from typing import Any

from batcher.core.connection import AsyncRedis, connect_async
from batcher.core.eviction import EvictionWatch
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.core.pool import ConnectionPool
from batcher.core.producer import ApiQueue
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    QueueUnavailable,
)
from batcher.hub.admission import Admission, LaneCaps
from batcher.hub.dispatcher import Dispatcher
from batcher.hub.pending import PendingEntries, PendingEntry
from batcher.messages import NO_SNAPSHOT, Lane, Outcome, Snapshot
from batcher.settings import QueueSettings

SWEEP_EVERY_S = 1.0
POLL_EVERY_S = 0.3
POLL_MOST = 500
HINT_BLOCK_S = 1.0
HINTS_MOST = 64
# Ticks of the event loop from a result to its answer: those who have waited go before the next wait.
ANSWER_TICKS = 2


class ReplyHub:
    """Asks the queue on behalf of all requests of one process, and gives each text its one answer.

    `client` runs scripts, `hint_client` is for the blocking pop alone. `linger_s` is a pause after each pop,
    for callers who would rather have many answers at once than each one early. `cache_here` says that
    long-lived results lie in the same Redis.
    """

    def __init__(
        self,
        client: AsyncRedis,
        hint_client: AsyncRedis,
        *,
        name: str,
        caps: LaneCaps,
        max_attempts: int = 3,
        linger_s: float = 0.0,
        cache_here: bool = False,
    ) -> None:
        api = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"
        self.queue = ApiQueue(client, name, api, max_attempts)
        self.snapshot: Snapshot = NO_SNAPSHOT
        self.outage = Outage()
        self.eviction = EvictionWatch()
        self._clients = (client, hint_client)
        self._hint_lines = ConnectionPool(hint_client)
        self._linger_s = linger_s
        self._cache_here = cache_here
        self._waiters = PendingEntries()
        self._asks = Dispatcher(
            self.queue, self._waiters, self.outage, Admission(caps), lambda: self.snapshot.rate
        )
        self.counts = self._asks.counts
        self._loops: list[asyncio.Task[None]] = []
        self._seen = asyncio.Event()
        self._stopping = False
        self._hints_lost = False

    @classmethod
    def connect(cls, settings: QueueSettings, *, linger_s: float = 0.0) -> ReplyHub:
        """A hub over clients of its own, for the Redis that the settings name."""
        url = settings.redis_url.get_secret_value()
        caps = LaneCaps(settings.max_waiting_cost, settings.max_waiting_cost_bulk)
        return cls(
            connect_async(url, timeout_s=1.0, retries=1),
            connect_async(url, timeout_s=HINT_BLOCK_S + 2.0, retries=0, connections=1),
            name=settings.name,
            caps=caps,
            max_attempts=settings.max_attempts,
            linger_s=linger_s,
            cache_here=settings.cache_here,
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    async def start(self, patience_s: float = 0.5) -> None:
        """Starts the loops, waits for the first answer. Succeeds with Redis away: they keep trying."""
        loops: Iterable[Coroutine[Any, Any, None]] = (self._sweeps(), self._hints(), self._polls())
        self._loops = [asyncio.create_task(loop) for loop in loops]
        await asyncio.wait([asyncio.create_task(self._seen.wait())], timeout=patience_s)

    async def stop(self) -> None:
        """Ends the loops, then the clients. Whoever still waits gets QueueUnavailable."""
        self._stopping = True
        self._waiters.resolve_all(QueueUnavailable("this API process is stopping", retry_after_s=1.0))
        self._seen.set()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._asks.drain()
        await self.queue.close()
        await self._hint_lines.close()
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

    @property
    def looks(self) -> bool:
        """Whether `classify` can look into the long-lived cache on its way, which saves a round trip."""
        return self._cache_here and self._asks.may_look and self.reachable and bool(self.snapshot.workers)

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
        revision: str = "",
    ) -> list[Outcome]:
        """The outcome of each text, in order. Safe to cancel: what nobody else waits for leaves the queue.

        `first`: of a client with little waiting, to be claimed before those who have much. `revision`: where
        the queue `looks` into the long-lived cache, of this model; a prediction found there is `cached`.

        An EntryFailed or EntryPoisoned stands in its text's place. Raises QueueFull, NoWorker or
        QueueUnavailable when refused, BudgetExceeded when `budget_s` ends first.
        """
        self._admit()
        deadline = asyncio.get_running_loop().time() + budget_s
        held, ask = self._waiters.hold(zip(ids, texts, strict=True), deadline, lane, trace, first, revision)
        self._asks.ask(ask)
        try:
            _, pending = await asyncio.wait([waiter.future for waiter in held.values()], timeout=budget_s)
            if pending:
                self.counts.expired += len(pending)
                raise BudgetExceeded(f"no result within the budget of {budget_s:g} s")
            outcomes = [held[entry].future.result() for entry in ids]
        finally:
            unwanted = self._waiters.let_go(held.values())
            if not self._stopping:
                self._asks.withdraw(unwanted)
        for outcome in outcomes:
            if isinstance(outcome, MillraceError) and not isinstance(outcome, (EntryFailed, EntryPoisoned)):
                # A copy that no local name holds. The traceback of one that is held holds this frame in turn,
                # and refusals would leave more to the garbage collector than anything else does.
                raise copy(outcome)
        return outcomes

    def _admit(self) -> None:
        if not self.reachable or self._stopping:
            raise QueueUnavailable("the queue does not answer; try again shortly", retry_after_s=1.0)
        if not self.snapshot.workers:
            raise NoWorker("no worker is alive; try again shortly", retry_after_s=2.0)

    # -- what comes back ---------------------------------------------------------------------------

    async def _hints(self) -> None:
        """Pops hints and resolves futures. Hints lost with a connection cost POLL_EVERY_S."""
        while not self._stopping:
            await self._seen.wait()
            try:
                hints = await self.queue.hints(self._hint_lines, HINT_BLOCK_S, HINTS_MOST)
            except REDIS_ERRORS as error:
                self._hints_lost = True
                self._asks.lost(error)
                await asyncio.sleep(self.outage.pause_s)
                continue
            for hint in hints:
                entry, _, raw = hint.partition(b"\n")
                waiter = self._waiters.get(entry.decode("ascii", "replace"))
                if waiter is not None:
                    self.counts.hinted += 1
                    self._asks.take_result(waiter, raw)
            for _ in range(ANSWER_TICKS):
                await asyncio.sleep(0)
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def _polls(self) -> None:
        """Looks for results whose hints were lost, and asks again for ids that Redis has lost."""
        while not self._stopping:
            await asyncio.sleep(POLL_EVERY_S)
            if not self.reachable:
                continue
            late = self._waiters.late(asyncio.get_running_loop().time(), everybody=self._hints_lost)
            self._hints_lost = False
            for at in range(0, len(late), POLL_MOST):
                await self._poll(late[at : at + POLL_MOST])

    async def _poll(self, waiters: Sequence[PendingEntry]) -> None:
        try:
            (answer,) = await self.queue.run([self.queue.outcomes(waiter.id for waiter in waiters)])
        except REDIS_ERRORS as error:
            self._asks.lost(error)
            return
        if isinstance(answer, Exception):
            return
        for waiter, state in zip(waiters, answer, strict=True):
            if waiter.future.done() or state == b"waiting":
                continue
            if state == b"gone":
                self._asks.again(waiter)
            else:
                self.counts.polled += 1
                self._asks.take_result(waiter, state)

    async def _sweeps(self) -> None:
        """Sweeps each second, so that recovery works with no worker alive; notices outages and returns."""
        while not self._stopping:
            try:
                self.snapshot = await self.queue.sweep(evicts=self._cache_here)
                if not self.reachable:
                    await self.eviction.look(self._clients[0])
                self.counts.recovered += self.snapshot.recovered
                self.outage.found()
                self._seen.set()
                await asyncio.sleep(SWEEP_EVERY_S * random.uniform(0.8, 1.0))
            except REDIS_ERRORS as error:
                self._asks.lost(error)
                await asyncio.sleep(self.outage.pause_s)
