"""The long-lived results, one key a text and revision. May live in another Redis than the queue."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import redis
import redis.asyncio

from batcher.coalesce import Coalescer
from batcher.connect import connect_async
from batcher.errors import Malformed
from batcher.messages import Prediction, decode_result
from batcher.redis_queue import cache_key
from batcher.settings import QueueSettings

Hit = tuple[Prediction, float]


class SharedCache:
    """Reads for an event loop. A cache that does not answer knows nothing: every lookup is a miss."""

    def __init__(self, client: redis.asyncio.Redis, name: str, ttl_s: float) -> None:
        self._client = client
        self._name = name
        self._ttl_s = ttl_s
        self._lookups: Coalescer[list[str], list[bytes | None]] = Coalescer(self._mget)

    @classmethod
    def connect(cls, settings: QueueSettings) -> SharedCache:
        """A cache over a client of its own: the cache's Redis, or else the queue's."""
        url = (settings.cache_url or settings.redis_url).get_secret_value()
        return cls(connect_async(url, timeout_s=0.5, retries=1), settings.name, settings.cache_ttl_s)

    async def get(self, revision: str, ids: Sequence[str]) -> list[Hit | None]:
        """For each id its prediction and the seconds a copy of it may be kept, or None.

        The remaining life is not asked for (it would double the commands): a copy may live for a tenth
        of the TTL, so an answer is never older than 1.2 TTL.
        """
        try:
            raws = await self._lookups.ask([cache_key(self._name, revision, entry) for entry in ids])
        except (redis.exceptions.RedisError, OSError):
            return [None] * len(ids)
        return [self._hit(raw) for raw in raws]

    def _hit(self, raw: bytes | None) -> Hit | None:
        if raw is None:
            return None
        try:
            result = decode_result(raw)
        except Malformed:
            return None
        return (result, self._ttl_s / 10) if isinstance(result, Prediction) else None

    async def _mget(self, lookups: Sequence[list[str]]) -> list[list[bytes | None] | Exception]:
        flat: Any = await self._client.mget([key for keys in lookups for key in keys])
        values = iter(flat)
        return [[next(values) for _ in keys] for keys in lookups]

    async def close(self) -> None:
        await self._lookups.drain()
        await self._client.aclose()


def remember(
    client: redis.Redis, name: str, ttl_s: float, results: Iterable[tuple[str, Prediction, bytes]]
) -> None:
    """Writes (id, prediction, encoded) under the revision that computed each; ends are spread by +-10 %."""
    pipe = client.pipeline(transaction=False)
    for entry, prediction, encoded in results:
        lifetime_ms = int(ttl_s * 1000 * random.uniform(0.9, 1.1))
        pipe.set(cache_key(name, prediction.revision, entry), encoded, px=lifetime_ms)
    pipe.execute(raise_on_error=False)
