"""The shared cache beside the shards of a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batcher.hub.shared_cache import ShardedCache, SharedCache, connect_cache
from batcher.messages import Prediction, entry_id
from batcher.settings import QueueSettings
from batcher.shards import shard_of
from tests.unit.fakes import prediction

REVISION = "a" * 64
TEXTS = [f"text {number}" for number in range(20)]
IDS = [entry_id(text) for text in TEXTS]


class Part:
    """The cache of one shard, which has every second text of those that are queued there."""

    def __init__(self, shard: int, shards: int) -> None:
        self.outages = shard + 1
        self.closed = False
        self.asked: list[str] = []
        self.found = {entry: prediction(entry) for entry in IDS[::2] if shard_of(entry, shards) == shard}

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        assert revision == REVISION
        self.asked += ids
        return [self.found.get(entry) for entry in ids]

    async def close(self) -> None:
        self.closed = True


async def test_each_text_is_looked_up_in_its_own_shard() -> None:
    parts: list[Any] = [Part(number, 3) for number in range(3)]
    cache = ShardedCache(parts)
    answers = await cache.get(REVISION, IDS)
    assert answers == [prediction(entry) if at % 2 == 0 else None for at, entry in enumerate(IDS)]
    for number, part in enumerate(parts):
        assert part.asked == [entry for entry in IDS if shard_of(entry, 3) == number]
    assert cache.outages == 6
    await cache.close()
    assert all(part.closed for part in parts)


async def test_the_cache_is_sharded_where_it_is_beside_the_shards() -> None:
    urls = "redis://localhost:1 redis://localhost:2"
    for settings, kind in (
        (QueueSettings(redis_url=urls), ShardedCache),
        (QueueSettings(redis_url=urls, cache_url="redis://localhost:3"), SharedCache),
        (QueueSettings(redis_url="redis://localhost:1"), SharedCache),
    ):
        cache = connect_cache(settings)
        assert type(cache) is kind, settings
        await cache.close()
