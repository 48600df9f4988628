"""Reads cached results, one key per text and revision. The cache may be in a different Redis than the queue.

An unavailable cache only costs hits: it is not read until it answers again, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from batcher.connection.clients import connect_async
from batcher.connection.outage import REDIS_ERRORS, ClusterCrossSlotError, Outage
from batcher.connection.pipeline import Pipeline
from batcher.core.keys import cache_key
from batcher.messages import Prediction, decode_cached
from batcher.settings import QueueSettings
from batcher.shards import Shard, by_shard

# The cache is worth waiting for only while it is faster than the model.
LOOKUP_S = 0.5
# Time without reads after the cache became unavailable; then a single PING checks whether it is back.
PAUSE_S = 1.0


class SharedCache:
    """Reads the cache, for asyncio. While the cache is unavailable, every lookup is a miss."""

    def __init__(self, pipeline: Pipeline, name: str) -> None:
        self.outage = Outage("cache")
        self._pipeline = pipeline
        self._name = name
        self._crosses_slots = False
        self._probe: asyncio.Task[None] | None = None
        self._probe_at = 0.0

    @classmethod
    def connect(cls, settings: QueueSettings, shard: Shard) -> SharedCache:
        """A cache with its own connection, to the cache's Redis or else to that of the queue or its shard."""
        url = settings.cache_address(shard)
        client = connect_async(url, timeout_s=LOOKUP_S, retries=1, key=shard.prefix)
        return cls(Pipeline(client, retries=1), settings.cache_name(shard))

    @property
    def outages(self) -> int:
        """How often it has become unavailable."""
        return self.outage.count

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        """Returns the prediction of each id, or None for a miss."""
        if not self.outage.over:
            self._check_again()
            return [None] * len(ids)
        try:
            raws = await self._read([cache_key(self._name, revision, entry) for entry in ids])
        except REDIS_ERRORS as error:
            self._lost(error)
            return [None] * len(ids)
        return [decode_cached(raw) if isinstance(raw, bytes) else None for raw in raws]

    async def _read(self, keys: Sequence[str]) -> Sequence[Any]:
        """The value of each key. A cluster rejects MGET across slots, so each key gets its own GET there."""
        if not self._crosses_slots:
            try:
                values: list[Any] = await self._pipeline.execute("MGET", *keys)
                return values
            except ClusterCrossSlotError:
                self._crosses_slots = True
        return await asyncio.gather(
            *(self._pipeline.execute("GET", key) for key in keys), return_exceptions=True
        )

    def _lost(self, error: Exception) -> None:
        self.outage.lost(error)
        self._probe_at = time.monotonic() + PAUSE_S

    def _check_again(self) -> None:
        """Starts a check in the background, so that no request waits for it."""
        if (self._probe is None or self._probe.done()) and time.monotonic() >= self._probe_at:
            self._probe = asyncio.create_task(self._ping())

    async def _ping(self) -> None:
        try:
            await self._pipeline.execute("PING")
        except REDIS_ERRORS as error:
            self._lost(error)
        else:
            self.outage.found()

    async def close(self) -> None:
        if self._probe is not None:
            await asyncio.wait([self._probe])
        await self._pipeline.close()


def connect_cache(settings: QueueSettings) -> SharedCache | ShardedCache:
    """The cache, with its own connections: to the cache's Redis, or else to all of the queue's."""
    shards = settings.queue_shards
    if len(shards) == 1 or not settings.cache_here:
        return SharedCache.connect(settings, shards[0])
    return ShardedCache([SharedCache.connect(settings, shard) for shard in shards])


class ShardedCache:
    """Reads each result from the cache of its shard. An unavailable one only costs its hits."""

    def __init__(self, caches: Sequence[SharedCache]) -> None:
        self._caches = tuple(caches)

    @property
    def outages(self) -> int:
        """How often one of them has become unavailable."""
        return sum(cache.outages for cache in self._caches)

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        """Returns the prediction of each id, or None for a miss."""
        parts = by_shard(ids, ids, len(self._caches))
        answers = await asyncio.gather(*(self._caches[k].get(revision, part) for k, part in parts.items()))
        found = dict[str, Prediction | None]()
        for part, predictions in zip(parts.values(), answers, strict=True):
            found.update(zip(part, predictions, strict=True))
        return [found[entry] for entry in ids]

    async def close(self) -> None:
        await asyncio.gather(*(cache.close() for cache in self._caches))
