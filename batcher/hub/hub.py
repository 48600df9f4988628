"""The reply hub, one per API process: enqueues texts and passes each result to the requests that wait.

It has a part for each shard of the queue. The steps are: admit -> enqueue (shared round trip) -> hint, or
slow poll if the hint was lost -> result. Requests only wait. Every Redis command runs in a task of the hub,
which is never cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import fields, replace
from functools import partial
from time import monotonic
from typing import Any, Self, TypeVar

from batcher.connection.clients import AsyncRedis, connect_async
from batcher.connection.outage import REDIS_ERRORS, Outage, jitter, refused
from batcher.connection.pipeline import Pipeline
from batcher.core.commands import Command, Lend, SetPause
from batcher.core.holds import Pause, later
from batcher.core.keys import cache_prefix
from batcher.core.redis_watch import OtherFormats, RedisWatch, read_memory
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot, Sweep, WorkerRecord, Workers, merge
from batcher.errors import MillraceError, NoWorker, QueueUnavailable
from batcher.hub.dispatcher import Admission, Dispatcher
from batcher.hub.pending import HubCounts, PendingEntry, Waiter, outcomes
from batcher.hub.slow_poll import SlowPoll
from batcher.messages import Lane, Outcome
from batcher.settings import QueueSettings
from batcher.shards import Shard, by_shard
from batcher.version import process_name

HINT_BLOCK_S = 1.0
MAX_HINTS = 64
log = logging.getLogger(__name__)
SWEEP_EVERY_S = 1.0
# How long those who ask for a sweep at once wait for others who do.
LOOK_S = 0.02
POLL_EVERY_S = 0.3
# Ticks of the event loop in which requests answer after a result, before the hub waits for the next hint.
ANSWER_TICKS = 2
# If no worker is idle anywhere, a shard asks for help again after this long, in each process. The shards that
# were asked remember it for HELP_MS.
ASK_EVERY_S = 0.03
# How many shards are asked at most before that, so that the load of asking does not grow with their number.
MAX_ASKED = 4
STOPPING = QueueUnavailable("this process is stopping; retry", retry_after_s=1.0)
Reply = TypeVar("Reply")
Item = tuple[str, str]  # id and text


class HintList:
    """Pops hints from the list `key`. Its pipeline is used for nothing else, because it blocks."""

    def __init__(self, pipeline: Pipeline, key: str) -> None:
        self._pipeline = pipeline
        self._key = key

    async def pop(self) -> list[tuple[str, bytes]]:
        """One round trip: waits for the first hint, and takes all others that are there by then.

        Returns ids and results; none after HINT_BLOCK_S without a hint. Raises REDIS_ERRORS.
        """
        first = self._pipeline.execute("BLPOP", self._key, HINT_BLOCK_S)
        others = self._pipeline.execute("LPOP", self._key, MAX_HINTS)
        _send(others)  # it is not awaited if the first fails
        lists = [*(await first or [])[1:], *(await others or [])]
        parts = [hint.partition(b"\n") for hints in lists for hint in hints.split(b"\0")]
        return [(entry_id.decode("ascii", "replace"), raw) for entry_id, _, raw in parts]

    async def close(self) -> None:
        await self._pipeline.close()


class Loops:
    """Tasks that run until `stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, **loops: Coroutine[Any, Any, None]) -> None:
        """Starts the loops, each in a task of that name."""
        for name, loop in loops.items():
            task = asyncio.create_task(loop, name=name)
            task.add_done_callback(_ended)
            self._tasks.append(task)

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return not any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        """Cancels all loops and waits for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        fields = {"action": "loop.ended", "loop": task.get_name()}
        log.error("a background task has ended", exc_info=task.exception(), extra=fields)


class Sweeper:
    """Sweeps for the process `api`, and warns once it is connected if there are workers of `others`.

    `cache`: the prefix of cached results that it may evict, if any.
    """

    def __init__(
        self, pipeline: Pipeline, api: str, max_attempts: int, cache: str, others: OtherFormats
    ) -> None:
        self.redis_watch = RedisWatch()
        self._others = others
        self._pipeline = pipeline
        self._api = api
        self._max_attempts = max_attempts
        self._cache = cache
        self._last = NO_SNAPSHOT

    async def sweep(self, connected: bool) -> Snapshot:
        """Sweeps, or reads the snapshot if another process sweeps. Raises REDIS_ERRORS.

        Only the process that sweeps, or was not `connected` until now, asks Redis about its memory.
        """
        info = await self._info("memory") if self._last.swept or not connected else b""
        sweep = Sweep(self._api, self._max_attempts, self._cache, self._last.cursor, read_memory(info))
        self._last = await self._pipeline.run(sweep)
        if not connected:
            self.redis_watch.look(info, await self._info("stats"))
            await self._others.look(self._pipeline)
        return self._last

    async def _info(self, section: str) -> object:
        try:
            return await self._pipeline.execute("INFO", section)
        except REDIS_ERRORS as error:
            if not refused(error):
                raise
            return b""  # not every Redis user may read it


class ShardHub:
    """Uses one shard of the queue on behalf of all requests of one process. Each text has a single flight.

    `client` runs scripts; `hint_client` only pops. `linger_s` is a pause after each pop, for callers that
    prefer many results at once to early ones.
    """

    def __init__(
        self,
        client: AsyncRedis,
        hint_client: AsyncRedis,
        settings: QueueSettings,
        shard: Shard,
        *,
        linger_s: float = 0.0,
    ) -> None:
        self.api = process_name()
        self.snapshot = NO_SNAPSHOT
        self.asked_at = -math.inf  # when it was asked for
        self.outage = Outage()
        self.pipeline = Pipeline(client, shard.prefix, retries=1)
        self._hint_list = HintList(Pipeline(hint_client), f"{shard.prefix}:reply:{self.api}")
        # The beginning of the keys of cached results, if they are in this Redis.
        self._cache = cache_prefix(shard.cache_name) if settings.cache_here else ""
        others = OtherFormats(shard)
        self._sweeper = Sweeper(self.pipeline, self.api, settings.max_attempts, self._cache, others)
        self.redis_watch = self._sweeper.redis_watch
        parts = len(settings.queue_shards)
        waiting = {"interactive": settings.max_waiting_cost, "bulk": settings.max_waiting_cost_bulk}
        self._admission = Admission({lane: -(-cost // parts) for lane, cost in waiting.items()})
        self.dispatcher = Dispatcher(self.pipeline, shard.cache_name, self.api, self.outage, self._admission)
        self._slow_poll = SlowPoll(self.pipeline, self.dispatcher)
        self.counts = self.dispatcher.counts
        self._loops = Loops()
        self._first_reply = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None  # one that has yet to begin its sweep
        self._refusal: MillraceError | None = None  # of all requests, once it stops
        self._linger_s = linger_s
        self._workers = 0  # live ones, which may claim what this hub enqueues
        self._on_sweep: Callable[[], None] = lambda: None

    @classmethod
    def connect(cls, settings: QueueSettings, shard: Shard, *, linger_s: float = 0.0) -> Self:
        """A hub with its own clients for one of the shards in the settings."""
        client = connect_async(shard.url, timeout_s=1.0, retries=1, key=shard.prefix)
        hints = connect_async(shard.url, timeout_s=HINT_BLOCK_S + 2.0, retries=0, key=shard.prefix)
        return cls(client, hints, settings, shard, linger_s=linger_s)

    async def start(self, patience_s: float = 0.5) -> None:
        """Starts the loops and waits for the first reply. Succeeds without Redis: the loops keep trying."""
        self._loops.start(sweeps=self._sweeps(), hints=self._hints(), polls=self._polls())
        await asyncio.wait([asyncio.create_task(self._first_reply.wait())], timeout=patience_s)

    def refuse(self, why: MillraceError) -> None:
        """Refuses requests from now on, those that are pending too."""
        self._refusal = why
        self.dispatcher.resolve_all(why)
        self._first_reply.set()

    async def stop(self) -> None:
        """Stops the loops, then closes the clients. Call `refuse` before."""
        await self._loops.stop()
        await self.pipeline.close()
        await self._hint_list.close()

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return self._loops.alive

    @property
    def reachable(self) -> bool:
        """Whether Redis is available."""
        return self.outage.over and self._first_reply.is_set()

    @property
    def looks(self) -> bool:
        """Whether `classify` can read the shared cache in the same round trip."""
        may_look = bool(self._cache) and self.dispatcher.may_look and not self._admission.pauses
        return may_look and self.reachable and self._workers > 0

    def admit(self, lane: Lane, budget_s: float) -> None:
        """Raises QueueUnavailable, NoWorker or Paused if entries cannot be enqueued now."""
        if self._refusal is not None:
            raise copy(self._refusal)
        if not self.reachable:
            raise QueueUnavailable(f"the queue is unavailable: {self.outage.said}", retry_after_s=1.0)
        if not self._workers:
            raise NoWorker("no workers are running; try again shortly", retry_after_s=2.0)
        self._admission.check(lane, budget_s)

    async def _hints(self) -> None:
        """Pops hints and resolves entries. Hints lost with a connection delay results until the slow poll."""
        while self._refusal is None:
            await self._first_reply.wait()
            try:
                hints = await self._hint_list.pop()
            except REDIS_ERRORS as error:
                self._slow_poll.hints_lost = True
                self.dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)
                continue
            if failed := self.dispatcher.take_hints(hints):
                await self._slow_poll.fetch(failed)
            for _ in range(ANSWER_TICKS):
                await asyncio.sleep(0)
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def _polls(self) -> None:
        """Polls for results whose hints were lost, and enqueues again the ids that Redis has lost."""
        while self._refusal is None:
            await asyncio.sleep(POLL_EVERY_S)
            if self.reachable:
                await self._slow_poll.poll()

    async def _sweeps(self) -> None:
        """Sweeps every second, or reads what another process found. Detects outages and their end."""
        while self._refusal is None:
            try:
                await self.sweep()
                await asyncio.sleep(SWEEP_EVERY_S * jitter(0.8, 1.0))
            except REDIS_ERRORS as error:
                self.dispatcher.lost(error)
                await asyncio.sleep(self.outage.pause_s)

    async def sweep(self) -> None:
        """Takes a new snapshot. Raises REDIS_ERRORS."""
        asked_at = monotonic()
        self.snapshot = await self._sweeper.sweep(self.reachable)
        self.asked_at = asked_at
        self.outage.found()
        self._first_reply.set()
        self.dispatcher.pause(self.snapshot.pauses)
        self.counts.recovered += self.snapshot.recovered
        self._on_sweep()

    async def look(self) -> None:
        """Returns after a sweep that began later than this call, which may be shared, and may have failed."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait([self._looking])

    async def _look(self) -> None:
        await asyncio.sleep(LOOK_S)
        self._looking = None
        with suppress(*REDIS_ERRORS):  # the loops notice it
            await self.sweep()

    def count_on(self, whole: Snapshot, rate: float) -> None:
        """Serves the model of the `whole` service, and admits as much as `rate`, in tokens per second."""
        self._workers = whole.workers
        self._admission.rate = rate
        if whole.model is not None:
            self.dispatcher.revision = whole.model.revision

    def join(self, on_sweep: Callable[[], None], ask_for_help: Callable[[int], None] | None) -> None:
        """Makes this a part of a hub. Both are called as `on_sweep` of the hub and `WakeUps` say."""
        self._on_sweep = on_sweep
        self.dispatcher.wake_ups.ask_for_help = ask_for_help


class ConsoleCommands:
    """Runs commands for the operator's console, which counts at the first shard.

    `parts`: the pipeline of each shard, which also carries the commands of requests.
    """

    def __init__(self, parts: Sequence[Pipeline]) -> None:
        self.parts = tuple(parts)

    def run(self, command: Command[Reply]) -> asyncio.Future[Reply]:
        """Runs a command. The future raises REDIS_ERRORS."""
        return self.parts[0].run(command)

    def send_to_all(self, command: Command[Any]) -> None:
        """Runs a command at every shard. It does not matter whether Redis takes it."""
        for part in self.parts:
            _send(part.run(command))


def _send(reply: asyncio.Future[Any]) -> None:
    reply.add_done_callback(lambda done: done.cancelled() or done.exception())


class ReplyHub:
    """Uses the queue, of one or more shards, on behalf of all requests of one process.

    A shard that is unavailable fails the requests with texts there, and no others. All workers may
    serve every shard, so each part admits its share of what all of them can do together.
    """

    def __init__(self, parts: Sequence[ShardHub]) -> None:
        self.parts = tuple(parts)
        self.snapshot: Snapshot = NO_SNAPSHOT
        self.asked_at = -math.inf  # when the newest part of it was asked for, by time.monotonic
        self.on_sweep: Callable[[], None] = lambda: None  # called after each sweep of any shard
        # The shards that have to be seen before no worker is left: one may have moved while they were read.
        self._unseen: set[ShardHub] = set()
        self.console = ConsoleCommands([part.pipeline for part in parts])
        self._own_counts = HubCounts()
        self._ask_at = [0.0] * len(parts)
        self._asking: set[asyncio.Task[None]] = set()
        self._turn = 0
        for number, part in enumerate(parts):
            ask = partial(self._ask_for_help, number) if len(parts) > 1 else None
            part.join(partial(self._swept, number), ask)

    @classmethod
    def connect(cls, settings: QueueSettings, *, linger_s: float = 0.0) -> Self:
        """A hub with its own clients, for all shards in the settings."""
        return cls([ShardHub.connect(settings, shard, linger_s=linger_s) for shard in settings.queue_shards])

    async def start(self, patience_s: float = 0.5) -> None:
        """Starts all parts. Succeeds without Redis: they keep trying."""
        await asyncio.gather(*(part.start(patience_s) for part in self.parts))

    async def stop(self, why: MillraceError = STOPPING) -> None:
        """Stops all parts. Pending requests are refused, and say `why`."""
        for part in self.parts:
            part.refuse(why)
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*(part.stop() for part in self.parts), *self._asking, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return all(part.alive for part in self.parts)

    @property
    def reachable(self) -> bool:
        """Whether any shard is available."""
        return any(part.reachable for part in self.parts)

    @property
    def trouble(self) -> str:
        """Why it is not reachable."""
        return self.parts[0].outage.said

    @property
    def shards_up(self) -> tuple[bool, ...]:
        """Whether each shard is available."""
        return tuple(part.reachable for part in self.parts)

    @property
    def outages(self) -> int:
        """How often a shard has become unavailable."""
        return sum(part.outage.count for part in self.parts)

    @property
    def waiting(self) -> int:
        """How many ids the requests of this process wait for."""
        return sum(len(part.dispatcher.pending) for part in self.parts)

    @property
    def looks(self) -> bool:
        """Whether `classify` can read the shared cache in the same round trip."""
        looks = [part.looks for part in self.parts if part.reachable]
        return bool(looks) and all(looks)

    @property
    def redis_watch(self) -> RedisWatch:
        """The warnings of every shard's Redis."""
        return RedisWatch.merge(part.redis_watch for part in self.parts)

    @property
    def counts(self) -> HubCounts:
        """The sums over all shards."""
        every = (self._own_counts, *(part.counts for part in self.parts))
        return HubCounts(*(sum(getattr(one, field.name) for one in every) for field in fields(HubCounts)))

    def pause(self, decided: Mapping[str, Pause]) -> None:
        """Pauses and resumes lanes, by what was decided last, at shards that do not know it yet."""
        for part in self.parts:
            if part.reachable and (news := later(decided, part.snapshot.pauses)):
                part.snapshot = replace(part.snapshot, pauses={**part.snapshot.pauses, **news})
                part.dispatcher.pause(part.snapshot.pauses)
                for lane, pause in news.items():
                    _send(part.pipeline.run(SetPause.of(lane, pause)))

    async def look(self) -> None:
        """Takes new snapshots at once, of the shards that are available."""
        await asyncio.gather(*(part.look() for part in self.parts if part.reachable))

    async def workers(self) -> tuple[WorkerRecord, ...]:
        """The records of all workers that live at a shard which is available. Raises REDIS_ERRORS."""
        found = await asyncio.gather(*(part.pipeline.run(Workers()) for part in self.parts if part.reachable))
        return tuple(record for records in found for record in records)

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
        only: str = "",
    ) -> list[Outcome]:
        """Returns the outcome of each text, in order. If cancelled, cancels entries no other request needs.

        `first`: the client has little waiting, so its entries are claimed before those of others. `revision`:
        if the hub `looks` into the shared cache, read results of this revision; they are marked as `cached`.
        `only`: use no stored results of others, and leave the texts to workers of that revision if possible.
        EntryFailed and EntryPoisoned are returned in place of the text's prediction. Raises QueueFull,
        NoWorker or QueueUnavailable if the request is refused, BudgetExceeded if `budget_s` ends first. No
        text is enqueued if a shard that is needed is unavailable.
        """
        shares = self._shares(list(zip(ids, texts, strict=True)), ids, only)
        parts = [(self.parts[number], items) for number, items in shares.items()]
        for part, _ in parts:
            part.admit(lane, budget_s)
        deadline = asyncio.get_running_loop().time() + budget_s
        waiter = Waiter(deadline, lane, trace, first, revision, only)
        entries: dict[str, PendingEntry] = {}
        holders = []
        try:
            for part, items in parts:
                own = part.dispatcher.hold(waiter, items)
                holders.append((part, own))
                entries |= own
            await waiter.wait(budget_s)
            return outcomes(waiter, entries, ids, budget_s, self._own_counts)
        finally:
            for part, own in holders:
                part.dispatcher.let_go(waiter, own.values())

    def _shares(self, items: Sequence[Item], ids: Sequence[str], only: str) -> Mapping[int, Sequence[Item]]:
        """The items of each shard: that of their ids, or one at which workers of revision `only` live.

        At that of its id, the idle worker of another revision that lives there would take a text first.
        """
        if len(self.parts) == 1:
            return {0: items}
        homes = [
            (len(part.snapshot.revisions), random.random(), number)
            for number, part in enumerate(self.parts)
            if only in part.snapshot.revisions and part.reachable
        ]
        if homes:
            return {min(homes)[-1]: items}
        return by_shard(items, ids, len(self.parts))

    def _swept(self, number: int) -> None:
        """Sums up the shards. Each counts on all workers: those of a shard that is down serve the others."""
        part = self.parts[number]
        whole = merge([_of(one) for one in self.parts])
        # This process may never have seen a shard that is down, and counts its workers where they are guests.
        # Until it notices that the shard is down, for a moment, it counts them there as well.
        up = [one.snapshot for one in self.parts if one.reachable]
        workers = max(whole.workers, sum(shard.workers + shard.guests for shard in up))
        rate = max(whole.rate, sum(shard.rate + shard.guest_rate for shard in up))
        # A new worker may have become ready at a shard that was read before the last one left another.
        self._unseen = {*self.parts} if workers else self._unseen - {part}
        if not workers and any(unseen.reachable for unseen in self._unseen):
            workers, rate = self.snapshot.workers, self.snapshot.rate
        self.snapshot = whole = replace(whole, workers=workers, rate=rate)
        for one in self.parts:
            one.count_on(whole, rate / len(self.parts))
        self.asked_at = part.asked_at
        if part.snapshot.interactive.entries + part.snapshot.bulk.entries + part.snapshot.solo:
            part.dispatcher.wake_ups.found_waiting()
        self.on_sweep()

    def _ask_for_help(self, number: int, oldest_ms: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._ask_at[number]:
            self._ask_at[number] = now + ASK_EVERY_S
            task = asyncio.create_task(self._find_help(number, oldest_ms))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _find_help(self, number: int, oldest_ms: int) -> None:
        """Asks one shard after another until one has woken a worker. The next text may then ask at once."""
        for part in self._helpers(number):
            try:
                part.dispatcher.wake_ups.idle = idle = await part.pipeline.run(Lend(number, oldest_ms))
                if idle >= 0:
                    self._ask_at[number] = 0.0
                    return
            except REDIS_ERRORS as error:
                if not refused(error):
                    part.dispatcher.lost(error)

    def _helpers(self, number: int) -> list[ShardHub]:
        """The shards to ask: first those that had idle workers when they were last used, then in turn."""
        # In turn, because workers of one shard may be older ones, which do not know the shard.
        self._turn += 1
        at = self._turn % len(self.parts)
        others = [part for part in (*self.parts[at:], *self.parts[:at]) if part is not self.parts[number]]
        up = [part for part in others if part.reachable]
        return sorted(up, key=lambda part: part.dispatcher.wake_ups.idle <= 0)[:MAX_ASKED]


def _of(part: ShardHub) -> Snapshot:
    """The last snapshot of a shard. If it is unavailable now, its question, pauses and holds may be old."""
    return part.snapshot if part.reachable else replace(part.snapshot, question=None, pauses={}, holds={})
