"""The queues that an attempt at a job uses, with their caches and shadows, and how they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from batcher.lookup import queue
from batcher.lookup.queue import LocalCache, QueueLookup
from batcher.publishing.shadow import Report, Shadow

# How long the end of a job waits for texts that a shadow has yet to compare.
DRAIN_S = 5.0
DRAIN_EVERY_S = 0.05


class Hub(queue.Hub, Protocol):
    """`batcher.hub.hub.ReplyHub`, or a fake."""

    async def start(self, patience_s: float = ...) -> None: ...
    async def stop(self) -> None: ...


class Cache(queue.Cache, Protocol):
    """`batcher.hub.shared_cache.SharedCache`, or a fake."""

    async def close(self) -> None: ...


class _NoLimits:
    """Jobs have their own limit of texts in flight, and their texts go after those of requests."""

    def accepts(self, client: str, texts: int) -> bool:
        return True

    @contextmanager
    def wait(self, client: str, texts: int) -> Iterator[bool]:
        yield False


class Queues:
    """Starts and stops them together.

    The end of a job waits for its shadows unless `hurries` returns true. `keeps_refused` is as in
    `QueueLookup`. Results are not kept in this process, which ends with the attempt.
    """

    def __init__(self, keeps_refused: bool = False, hurries: Callable[[], bool] = lambda: False) -> None:
        self._keeps_refused = keeps_refused
        self._hurries = hurries
        self._queues: list[tuple[Hub, Cache]] = []
        self._shadows: list[Shadow] = []

    def add(self, hub: Hub, cache: Cache) -> QueueLookup:
        """The lookup in a queue and its cache."""
        self._queues.append((hub, cache))
        return QueueLookup(hub, cache, LocalCache(0, 0), _NoLimits(), 0.0, self._keeps_refused)

    def add_shadow(self, hub: Hub, cache: Cache, report: Report) -> Shadow:
        """A shadow whose queue is that of `hub`. Needs a running loop."""
        self._queues.append((hub, cache))
        shadow = Shadow(hub, report)
        self._shadows.append(shadow)
        return shadow

    async def start(self, patience_s: float) -> None:
        await asyncio.gather(*(hub.start(patience_s) for hub, _ in self._queues))

    async def stop(self) -> None:
        for shadow in self._shadows:
            await self._drain(shadow)
            await shadow.stop()
        await asyncio.gather(*(hub.stop() for hub, _ in self._queues))
        await asyncio.gather(*(cache.close() for _, cache in self._queues))

    async def _drain(self, shadow: Shadow) -> None:
        until = monotonic() + DRAIN_S
        while not (shadow.idle or monotonic() > until):
            if await asyncio.to_thread(self._hurries):
                return
            await asyncio.sleep(DRAIN_EVERY_S)
