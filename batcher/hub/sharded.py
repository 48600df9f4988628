"""The hub of a queue of several shards: one reply hub for each, and each text goes to that of its shard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial

from batcher.connection.outage import REDIS_ERRORS, refused
from batcher.core.merged import merge
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot, WorkerRecord
from batcher.hub.console import ShardedCommands
from batcher.hub.dispatcher import HubCounts, PendingEntry, outcomes
from batcher.hub.hub import ReplyHub
from batcher.messages import Lane, Outcome
from batcher.settings import QueueSettings
from batcher.shards import by_shard

# If no worker is idle anywhere, a shard asks for help again after this long, in each process. The shards that
# were asked remember it for HELP_MS.
ASK_EVERY_S = 0.03
# How many shards are asked at most before that, so that the load of asking does not grow with their number.
ASK_MOST = 4


def connect_hub(settings: QueueSettings, *, linger_s: float = 0.0) -> ReplyHub | ShardedHub:
    """The hub of a process, with its own clients, for all shards in the settings."""
    shards = settings.queue_shards
    hubs = [ReplyHub.connect(settings, shard, linger_s=linger_s) for shard in shards]
    return hubs[0] if len(hubs) == 1 else ShardedHub(hubs)


class ShardedHub:
    """Uses the shards of a queue on behalf of all requests of one process.

    A shard that is unavailable fails the requests with texts of that shard, and no others. All workers may
    serve every shard, so each hub admits its share of what all of them can do together.
    """

    def __init__(self, hubs: Sequence[ReplyHub]) -> None:
        self.hubs = tuple(hubs)
        self.snapshot: Snapshot = NO_SNAPSHOT
        # Called after each sweep of any shard.
        self.on_sweep: Callable[[], None] = lambda: None
        self.console = ShardedCommands([hub.console for hub in hubs])
        self._own_counts = HubCounts()
        self._ask_at = [0.0] * len(hubs)
        self._asking: set[asyncio.Task[None]] = set()
        self._turn = 0
        for number, hub in enumerate(hubs):
            hub.join(partial(self._swept, number), partial(self._ask_for_help, number))

    async def start(self, patience_s: float = 0.5) -> None:
        """Starts all hubs. Succeeds without Redis: they keep trying."""
        await asyncio.gather(*(hub.start(patience_s) for hub in self.hubs))

    async def stop(self) -> None:
        """Stops all hubs. Pending requests get QueueUnavailable."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*(hub.stop() for hub in self.hubs), *self._asking, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return all(hub.alive for hub in self.hubs)

    @property
    def reachable(self) -> bool:
        """Whether any shard is available."""
        return any(hub.reachable for hub in self.hubs)

    @property
    def shards_up(self) -> tuple[bool, ...]:
        """Whether each shard is available."""
        return tuple(hub.reachable for hub in self.hubs)

    @property
    def outages(self) -> int:
        """How often a shard has become unavailable."""
        return sum(hub.outages for hub in self.hubs)

    @property
    def waiting(self) -> int:
        """How many ids the requests of this process wait for."""
        return sum(hub.waiting for hub in self.hubs)

    @property
    def looks(self) -> bool:
        """Whether `classify` can read the shared cache in the same round trip."""
        return self.reachable and all(hub.looks for hub in self.hubs if hub.reachable)

    @property
    def redis_watch(self) -> RedisWatch:
        """The warnings of every shard's Redis."""
        return RedisWatch.merge(hub.redis_watch for hub in self.hubs)

    @property
    def counts(self) -> HubCounts:
        """The sums over all shards."""
        every = (self._own_counts, *(hub.counts for hub in self.hubs))
        return HubCounts(
            *(sum(getattr(counts, field.name) for counts in every) for field in fields(HubCounts))
        )

    async def workers(self) -> tuple[WorkerRecord, ...]:
        """The records of all workers that live at a shard which is available. Raises REDIS_ERRORS."""
        found = await asyncio.gather(*(hub.workers() for hub in self.hubs if hub.reachable))
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
        """As `ReplyHub.classify`. No text is enqueued if a shard that is needed is unavailable."""
        parts = by_shard(list(zip(ids, texts, strict=True)), ids, len(self.hubs))
        asked = [(self.hubs[number], items) for number, items in parts.items()]
        for hub, _ in asked:
            hub.admit(lane, budget_s)
        deadline = asyncio.get_running_loop().time() + budget_s
        held = dict[str, PendingEntry]()
        holders = []
        try:
            for hub, items in asked:
                cached = revision if hub.looks else ""
                own = hub.dispatcher.hold(items, deadline, lane, trace, first, cached, only)
                holders.append((hub, own))
                held |= own
            return await outcomes(held, ids, budget_s, self._own_counts)
        finally:
            for hub, own in holders:
                hub.dispatcher.let_go(own.values())

    def _swept(self, number: int) -> None:
        """Sums up the shards. Each counts on all workers: those of a shard that is down serve the others."""
        whole = merge([_of(hub) for hub in self.hubs])
        # This process may never have seen a shard that is down, and counts its workers where they are guests.
        # Until it notices that the shard is down, for a moment, it counts them there as well.
        up = [hub.snapshot for hub in self.hubs if hub.reachable]
        self.snapshot = whole = replace(
            whole,
            workers=max(whole.workers, sum(shard.workers + shard.guests for shard in up)),
            rate=max(whole.rate, sum(shard.rate + shard.guest_rate for shard in up)),
        )
        for hub in self.hubs:
            hub.count_on(whole.workers, whole.rate / len(self.hubs))
        hub = self.hubs[number]
        if hub.snapshot.interactive.entries + hub.snapshot.bulk.entries + hub.snapshot.solo:
            hub.dispatcher.wake_ups.found_waiting()
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
        for hub in self._helpers(number):
            try:
                hub.dispatcher.wake_ups.idle = idle = await hub.lend(number, oldest_ms)
                if idle >= 0:
                    self._ask_at[number] = 0.0
                    return
            except REDIS_ERRORS as error:
                if not refused(error):
                    hub.dispatcher.lost(error)

    def _helpers(self, number: int) -> list[ReplyHub]:
        """The shards to ask: first those that had idle workers when they were last used, then in turn."""
        # In turn, because workers of one shard may be older ones, which do not know the shard.
        self._turn += 1
        at = self._turn % len(self.hubs)
        others = [hub for hub in (*self.hubs[at:], *self.hubs[:at]) if hub is not self.hubs[number]]
        up = [hub for hub in others if hub.reachable]
        return sorted(up, key=lambda hub: hub.dispatcher.wake_ups.idle <= 0)[:ASK_MOST]


def _of(hub: ReplyHub) -> Snapshot:
    """The last snapshot of a shard. If it has become unavailable since, its question and pauses are old."""
    return hub.snapshot if hub.reachable else replace(hub.snapshot, question=None, pauses={})
