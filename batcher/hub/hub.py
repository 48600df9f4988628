"""The reply hub, one per API process: enqueues texts and passes each result to the requests that wait.

The steps are: admit -> enqueue (shared round trip) -> hint, or slow poll if the hint was lost -> result.
Requests only await futures. Every Redis command runs in a task of the hub, which is never cancelled.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from copy import copy
from secrets import token_hex

from batcher.core.connection import AsyncRedis, connect_async
from batcher.core.jitter import jitter
from batcher.core.keys import cache_prefix, prefix
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.core.pipeline import Pipeline
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot, WorkerRecord, Workers
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    QueueUnavailable,
)
from batcher.hub.admission import Admission, LaneCaps
from batcher.hub.console import ConsoleCommands
from batcher.hub.dispatcher import Dispatcher
from batcher.hub.loops import Loops
from batcher.hub.slow_poll import SlowPoll
from batcher.hub.sweeper import Sweeper
from batcher.messages import Lane, Outcome, is_failure
from batcher.settings import QueueSettings

SWEEP_EVERY_S = 1.0
POLL_EVERY_S = 0.3
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
        self.api = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self.snapshot: Snapshot = NO_SNAPSHOT
        self.outage = Outage()
        self._pipeline = Pipeline(client, prefix(name), retries=1)
        self.console = ConsoleCommands(self._pipeline)
        self._hint_pipeline = Pipeline(hint_client)
        self._hint_list = f"{prefix(name)}:reply:{self.api}"
        self._linger_s = linger_s
        self._cache = cache_prefix(name) if cache_here else ""
        self._sweeper = Sweeper(self._pipeline, self.api, max_attempts, self._cache)
        self.eviction = self._sweeper.eviction
        self._admission = Admission(caps)
        self._dispatcher = Dispatcher(self._pipeline, name, self.api, self.outage, self._admission)
        self._slow_poll = SlowPoll(self._pipeline, self._dispatcher)
        self.counts = self._dispatcher.counts
        self._loops = Loops()
        self._first_reply = asyncio.Event()
        self._stopping = False

    @classmethod
    def connect(cls, settings: QueueSettings, *, linger_s: float = 0.0) -> ReplyHub:
        """A hub with its own clients, for the Redis in the settings."""
        url = settings.redis_url.get_secret_value()
        caps = LaneCaps(settings.max_waiting_cost, settings.max_waiting_cost_bulk)
        return cls(
            connect_async(url, timeout_s=1.0, retries=1),
            connect_async(url, timeout_s=HINT_BLOCK_S + 2.0, retries=0),
            name=settings.name,
            caps=caps,
            max_attempts=settings.max_attempts,
            linger_s=linger_s,
            cache_here=settings.cache_here,
        )

    async def start(self, patience_s: float = 0.5) -> None:
        """Starts the loops and waits for the first reply. Succeeds without Redis: the loops keep trying."""
        self._loops.start(sweeps=self._sweeps(), hints=self._hints(), polls=self._polls())
        await asyncio.wait([asyncio.create_task(self._first_reply.wait())], timeout=patience_s)

    async def stop(self) -> None:
        """Stops the loops, then closes the clients. Pending requests get QueueUnavailable."""
        self._stopping = True
        self._dispatcher.resolve_all(QueueUnavailable("this API process is shutting down", retry_after_s=1.0))
        self._first_reply.set()
        await self._loops.stop()
        await self._pipeline.close()
        await self._hint_pipeline.close()

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return self._loops.alive

    @property
    def reachable(self) -> bool:
        """Whether Redis is available."""
        return self.outage.over and self._first_reply.is_set()

    @property
    def waiting(self) -> int:
        """How many ids the requests of this process wait for."""
        return len(self._dispatcher.pending)

    @property
    def looks(self) -> bool:
        """Whether `classify` can read the shared cache in the same round trip."""
        may_look = bool(self._cache) and self._dispatcher.may_look and not self._admission.pauses
        return may_look and self.reachable and self.snapshot.workers > 0

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
        self._admission.check(lane, budget_s)
        deadline = asyncio.get_running_loop().time() + budget_s
        items = zip(ids, texts, strict=True)
        held = self._dispatcher.hold(items, deadline, lane, trace, first, revision)
        try:
            _, pending = await asyncio.wait([entry.future for entry in held.values()], timeout=budget_s)
            if pending:
                self.counts.expired += len(pending)
                raise BudgetExceeded(f"no result within the budget of {budget_s:g} s")
            outcomes = [held[entry_id].future.result() for entry_id in ids]
        finally:
            self._dispatcher.let_go(held.values())
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

    async def _hints(self) -> None:
        """Pops hints and resolves futures. Hints lost with a connection delay results until the slow poll."""
        while not self._stopping:
            await self._first_reply.wait()
            try:
                hints = await self._pop_hints()
            except REDIS_ERRORS as error:
                self._slow_poll.hints_lost = True
                self._dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)
                continue
            failed = []
            for hint in hints:
                entry_id, _, raw = hint.partition(b"\n")
                entry = self._dispatcher.pending.get(entry_id.decode("ascii", "replace"))
                if entry is None:
                    continue
                self.counts.hinted += 1
                if is_failure(raw):
                    failed.append(entry)
                else:
                    self._dispatcher.take_result(entry, raw)
            if failed:  # a late hint may be about an earlier run, whose failure concerns no later request
                await self._slow_poll.ask(failed)
            for _ in range(ANSWER_TICKS):
                await asyncio.sleep(0)
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def _pop_hints(self) -> list[bytes]:
        """One round trip: waits for the first hint, and takes all others that are there by then."""
        first, others = await asyncio.gather(
            self._hint_pipeline.ask("BLPOP", self._hint_list, HINT_BLOCK_S),
            self._hint_pipeline.ask("LPOP", self._hint_list, HINTS_MOST),
        )
        lists = [*(first or [])[1:], *(others or [])]
        return [hint for hints in lists for hint in hints.split(b"\0")]

    async def _polls(self) -> None:
        """Polls for results whose hints were lost, and enqueues again the ids that Redis has lost."""
        while not self._stopping:
            await asyncio.sleep(POLL_EVERY_S)
            if self.reachable:
                await self._slow_poll.poll()

    async def _sweeps(self) -> None:
        """Sweeps every second, or reads what another process found. Detects outages and their end."""
        while not self._stopping:
            try:
                await self.sweep()
                self.outage.found()
                self._first_reply.set()
                await asyncio.sleep(SWEEP_EVERY_S * jitter(0.8, 1.0))
            except REDIS_ERRORS as error:
                self._dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)

    async def sweep(self) -> None:
        """Takes a new snapshot. Raises REDIS_ERRORS."""
        self.snapshot = await self._sweeper.sweep(self.reachable)
        self._admission.rate, self._admission.pauses = self.snapshot.rate, self.snapshot.pauses
        for lane, refusal in self._admission.refusals():
            self._dispatcher.refuse(lane, refusal)
        self.counts.recovered += self.snapshot.recovered

    async def workers(self) -> tuple[WorkerRecord, ...]:
        """The records of all live workers. Raises REDIS_ERRORS."""
        return await self._pipeline.run(Workers())
