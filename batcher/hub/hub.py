"""The reply hub, one per API process: enqueues texts and passes each result to the requests that wait.

The steps are: admit -> enqueue (shared round trip) -> hint, or slow poll if the hint was lost -> result.
Requests only await futures. Every Redis command runs in a task of the hub, which is never cancelled.
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
from batcher.messages import NO_SNAPSHOT, Lane, Outcome, Snapshot, is_failure
from batcher.settings import QueueSettings

SWEEP_EVERY_S = 1.0
POLL_EVERY_S = 0.3
POLL_MOST = 500
HINT_BLOCK_S = 1.0
HINTS_MOST = 64
# Ticks of the event loop in which requests answer after a result, before the hub waits for the next hint.
ANSWER_TICKS = 2


class ReplyHub:
    """Uses the queue on behalf of all requests of one process, with a single flight for each text.

    `client` runs scripts; `hint_client` is used only for the blocking pop. `linger_s` is a pause after each
    pop, for callers that prefer many results at once to each one early. `cache_here`: cached results are in
    the same Redis.
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
        self._hint_connections = ConnectionPool(hint_client)
        self._linger_s = linger_s
        self._cache_here = cache_here
        self._pending = PendingEntries()
        self._dispatcher = Dispatcher(
            self.queue, self._pending, self.outage, Admission(caps), lambda: self.snapshot.rate
        )
        self.counts = self._dispatcher.counts
        self._loops: list[asyncio.Task[None]] = []
        self._first_reply = asyncio.Event()
        self._stopping = False
        self._hints_lost = False

    @classmethod
    def connect(cls, settings: QueueSettings, *, linger_s: float = 0.0) -> ReplyHub:
        """A hub with its own clients, for the Redis in the settings."""
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
        """Starts the loops and waits for the first reply. Succeeds without Redis: the loops keep trying."""
        loops: Iterable[Coroutine[Any, Any, None]] = (self._sweeps(), self._hints(), self._polls())
        self._loops = [asyncio.create_task(loop) for loop in loops]
        await asyncio.wait([asyncio.create_task(self._first_reply.wait())], timeout=patience_s)

    async def stop(self) -> None:
        """Stops the loops, then closes the clients. Pending requests get QueueUnavailable."""
        self._stopping = True
        self._pending.resolve_all(QueueUnavailable("this API process is shutting down", retry_after_s=1.0))
        self._first_reply.set()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._dispatcher.drain()
        await self.queue.close()
        await self._hint_connections.close()
        for client in self._clients:
            await client.aclose()

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return not any(task.done() for task in self._loops)

    @property
    def reachable(self) -> bool:
        """Whether Redis is available."""
        return self.outage.over and self._first_reply.is_set()

    @property
    def waiting(self) -> int:
        """How many ids the requests of this process wait for."""
        return len(self._pending)

    @property
    def looks(self) -> bool:
        """Whether `classify` can read the shared cache in the same round trip."""
        may_look = self._cache_here and self._dispatcher.may_look
        return may_look and self.reachable and bool(self.snapshot.workers)

    # -- requests ----------------------------------------------------------------------------------

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
        """Returns the outcome of each text, in order. If cancelled, cancels entries no other request needs.

        `first`: the client has little waiting, so its entries are claimed before those of others. `revision`:
        if the hub `looks` into the shared cache, read results of this revision; they are marked as `cached`.

        EntryFailed and EntryPoisoned are returned in place of the text's prediction. Raises QueueFull,
        NoWorker or QueueUnavailable if the request is refused, BudgetExceeded if `budget_s` ends first.
        """
        self._admit()
        deadline = asyncio.get_running_loop().time() + budget_s
        held, to_enqueue = self._pending.hold(
            zip(ids, texts, strict=True), deadline, lane, trace, first, revision
        )
        self._dispatcher.ask(to_enqueue)
        try:
            _, pending = await asyncio.wait([entry.future for entry in held.values()], timeout=budget_s)
            if pending:
                self.counts.expired += len(pending)
                raise BudgetExceeded(f"no result within the budget of {budget_s:g} s")
            outcomes = [held[entry_id].future.result() for entry_id in ids]
        finally:
            unwanted = self._pending.let_go(held.values())
            if not self._stopping:
                self._dispatcher.withdraw(unwanted)
        for outcome in outcomes:
            if isinstance(outcome, MillraceError) and not isinstance(outcome, (EntryFailed, EntryPoisoned)):
                # Raise a copy: raising the shared instance would attach this frame to its traceback and
                # create a reference cycle, which only the garbage collector can free.
                raise copy(outcome)
        return outcomes

    def _admit(self) -> None:
        if not self.reachable or self._stopping:
            raise QueueUnavailable("the queue is unavailable; try again shortly", retry_after_s=1.0)
        if not self.snapshot.workers:
            raise NoWorker("no workers are running; try again shortly", retry_after_s=2.0)

    # -- results -----------------------------------------------------------------------------------

    async def _hints(self) -> None:
        """Pops hints and resolves futures. Hints lost with a connection delay results by POLL_EVERY_S."""
        while not self._stopping:
            await self._first_reply.wait()
            try:
                hints = await self.queue.hints(self._hint_connections, HINT_BLOCK_S, HINTS_MOST)
            except REDIS_ERRORS as error:
                self._hints_lost = True
                self._dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)
                continue
            failed = []
            for hint in hints:
                entry_id, _, raw = hint.partition(b"\n")
                entry = self._pending.get(entry_id.decode("ascii", "replace"))
                if entry is None:
                    continue
                self.counts.hinted += 1
                if is_failure(raw):
                    failed.append(entry)
                else:
                    self._dispatcher.take_result(entry, raw)
            if failed:  # a late hint may be about an earlier run, whose failure concerns no later request
                await self._poll(failed)
            for _ in range(ANSWER_TICKS):
                await asyncio.sleep(0)
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def _polls(self) -> None:
        """Polls for results whose hints were lost, and enqueues again the ids that Redis has lost."""
        while not self._stopping:
            await asyncio.sleep(POLL_EVERY_S)
            if not self.reachable:
                continue
            late = self._pending.late(asyncio.get_running_loop().time(), every_entry=self._hints_lost)
            self._hints_lost = False
            for at in range(0, len(late), POLL_MOST):
                await self._poll(late[at : at + POLL_MOST])

    async def _poll(self, entries: Sequence[PendingEntry]) -> None:
        try:
            (answer,) = await self.queue.run([self.queue.outcomes(entry.id for entry in entries)])
        except REDIS_ERRORS as error:
            self._dispatcher.lost(error)
            return
        if isinstance(answer, Exception):
            return
        for entry, state in zip(entries, answer, strict=True):
            if entry.future.done() or state == b"waiting":
                continue
            if state == b"gone":
                self._dispatcher.again(entry)
            else:
                self.counts.polled += 1
                self._dispatcher.take_result(entry, state)

    async def _sweeps(self) -> None:
        """Sweeps every second, so that recovery works without live workers. Detects outages and their end."""
        while not self._stopping:
            try:
                self.snapshot = await self.queue.sweep(evicts=self._cache_here)
                if not self.reachable:
                    await self.eviction.look(self._clients[0])
                self.counts.recovered += self.snapshot.recovered
                self.outage.found()
                self._first_reply.set()
                await asyncio.sleep(SWEEP_EVERY_S * random.uniform(0.8, 1.0))
            except REDIS_ERRORS as error:
                self._dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)
