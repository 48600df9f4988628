"""The queues that an attempt at a job uses, with their caches and shadows, and how they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from batcher.errors import MillraceError, NoWorker, Paused
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import ShardedCache, SharedCache
from batcher.lookup.queue import LocalCache, QueueLookup
from batcher.publishing.shadow import Report, Shadow

# How long the end of a job waits for texts that a shadow has yet to compare.
DRAIN_S = 5.0
DRAIN_EVERY_S = 0.05
Cache = SharedCache | ShardedCache
# How long a queue that no attempt uses stays open for the next one.
LINGER_S = 10.0


class OpenQueue:
    """A queue and its cache, which attempts at jobs share."""

    def __init__(self, hub: ReplyHub, cache: Cache) -> None:
        self.hub = hub
        self.cache = cache
        self.users = 0
        self.unused_since = monotonic()
        self._starting: asyncio.Task[None] | None = None

    async def start(self, patience_s: float) -> None:
        """Takes part in it; the first one starts it."""
        self.users += 1
        if self._starting is None:
            self._starting = asyncio.create_task(self.hub.start(patience_s))
        await asyncio.shield(self._starting)

    def leave(self) -> None:
        self.users -= 1
        self.unused_since = monotonic()

    async def close(self) -> None:
        if self._starting is not None:
            await self._starting
        await self.hub.stop()
        await self.cache.close()

    @property
    def blocked(self) -> MillraceError | None:
        """Why its texts cannot be classified now, as far as it is known."""
        snapshot = self.hub.snapshot
        if not self.hub.reachable:
            return None
        if not snapshot.workers:
            return NoWorker("no worker runs the model of the job")
        pause = snapshot.pauses.get("bulk")
        if pause is not None and pause.left_s:
            return Paused("an operator has paused the jobs of this model")
        return None


class OpenQueues:
    """The queues that are open in this process, by name. `connect` opens one."""

    def __init__(self, connect: Callable[[str], tuple[ReplyHub, Cache]]) -> None:
        self._connect = connect
        self._open: dict[str, OpenQueue] = {}

    def get(self, name: str) -> OpenQueue:
        """The queue of this name. Needs a running loop."""
        if name not in self._open:
            self._open[name] = OpenQueue(*self._connect(name))
        return self._open[name]

    @property
    def reachable(self) -> bool:
        """Whether the Redis of each queue that is in use is available."""
        return all(one.hub.reachable for one in list(self._open.values()) if one.users)

    async def close(self, unused_s: float = 0.0) -> None:
        """Closes those that have not been in use for so long."""
        for name, one in list(self._open.items()):
            if not one.users and monotonic() >= one.unused_since + unused_s:
                del self._open[name]
                await one.close()


class _NoLimits:
    """Jobs have their own limit of texts in flight, and their texts go after those of requests."""

    def accepts(self, client: str, texts: int) -> bool:
        return True

    @contextmanager
    def wait(self, client: str, texts: int) -> Iterator[bool]:
        yield False


class Queues:
    """Those of one attempt.

    The end of a job waits for its shadows unless `hurries` returns true. `keeps_refused` is as in
    `QueueLookup`. Results are not kept in this process.
    """

    def __init__(self, keeps_refused: bool = False, hurries: Callable[[], bool] = lambda: False) -> None:
        self._keeps_refused = keeps_refused
        self._hurries = hurries
        self._answering: list[OpenQueue] = []
        self._comparing: list[OpenQueue] = []
        self._shadows: list[Shadow] = []

    def add(self, opened: OpenQueue) -> QueueLookup:
        """The lookup in a queue and its cache."""
        self._answering.append(opened)
        return QueueLookup(opened.hub, opened.cache, LocalCache(0, 0), _NoLimits(), 0.0, self._keeps_refused)

    def add_shadow(self, opened: OpenQueue, report: Report) -> Shadow:
        """A shadow whose queue is this one. Needs a running loop."""
        self._comparing.append(opened)
        shadow = Shadow(opened.hub, report)
        self._shadows.append(shadow)
        return shadow

    @property
    def blocked(self) -> MillraceError | None:
        """Why the job cannot go on now, as far as it is known; None if it can."""
        return next((why for one in self._answering if (why := one.blocked) is not None), None)

    async def start(self, patience_s: float) -> None:
        await asyncio.gather(*(one.start(patience_s) for one in (*self._answering, *self._comparing)))

    async def stop(self) -> None:
        for shadow in self._shadows:
            await self._drain(shadow)
            await shadow.stop()
        for one in (*self._answering, *self._comparing):
            one.leave()

    async def _drain(self, shadow: Shadow) -> None:
        until = monotonic() + DRAIN_S
        while not (shadow.idle or monotonic() > until):
            if self._hurries():
                return
            await asyncio.sleep(DRAIN_EVERY_S)
