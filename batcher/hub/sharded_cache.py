"""The shared cache beside the shards of a queue: the result of a text is where the text is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from batcher.hub.shared_cache import SharedCache
from batcher.messages import Prediction
from batcher.settings import QueueSettings
from batcher.shards import by_shard


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
