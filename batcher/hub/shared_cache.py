"""Reads cached results, one key per text and revision. The cache may be in a different Redis than the queue.

An unavailable cache only costs hits: it is not read until it answers again, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from batcher.core.coalescer import Coalescer
from batcher.core.connection import AsyncRedis, connect_async
from batcher.core.keys import cache_key
from batcher.core.outage import REDIS_ERRORS, ClusterCrossSlotError, Outage
from batcher.messages import Prediction, decode_cached
from batcher.settings import QueueSettings

# The cache is worth waiting for only while it is faster than the model.
LOOKUP_S = 0.5
# Time without reads after the cache became unavailable; then a single PING checks whether it is back.
PAUSE_S = 1.0


class SharedCache:
    """Reads the cache, for asyncio. While the cache is unavailable, every lookup is a miss."""

    def __init__(self, client: AsyncRedis, name: str) -> None:
        self.outage = Outage("cache")
        self._client = client
        self._name = name
        self._lookups: Coalescer[list[str], list[bytes | None]] = Coalescer(self._read)
        self._crosses_slots = False
        self._probe: asyncio.Task[None] | None = None
        self._probe_at = 0.0

    @classmethod
    def connect(cls, settings: QueueSettings) -> SharedCache:
        """A cache with its own client, for the cache's Redis or else the queue's."""
        client = connect_async(settings.cache_address, timeout_s=LOOKUP_S, retries=1, connections=4)
        return cls(client, settings.name)

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        """Returns the prediction of each id, or None for a miss."""
        if not self.outage.over:
            self._check_again()
            return [None] * len(ids)
        try:
            raws = await self._lookups.ask([cache_key(self._name, revision, entry) for entry in ids])
        except REDIS_ERRORS:
            return [None] * len(ids)
        return [decode_cached(raw) if isinstance(raw, bytes) else None for raw in raws]

    async def _read(self, lookups: Sequence[list[str]]) -> list[list[bytes | None] | Exception]:
        if not self.outage.over:  # the outage began while this lookup waited
            return [[None] * len(keys) for keys in lookups]
        try:
            values = iter(await self._values([key for keys in lookups for key in keys]))
        except REDIS_ERRORS as error:
            self._lost(error)
            raise
        return [[next(values) for _ in keys] for keys in lookups]

    async def _values(self, keys: list[str]) -> Sequence[Any]:
        """The value of each key. A cluster rejects MGET across slots, so each key gets its own GET there."""
        if not self._crosses_slots:
            try:
                values: list[Any] = await self._client.mget(keys)
                return values
            except ClusterCrossSlotError:
                self._crosses_slots = True
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    def _lost(self, error: Exception) -> None:
        self.outage.lost(error)
        self._probe_at = time.monotonic() + PAUSE_S

    def _check_again(self) -> None:
        """Starts a check in the background, so that no request waits for it."""
        if (self._probe is None or self._probe.done()) and time.monotonic() >= self._probe_at:
            self._probe = asyncio.create_task(self._ping())

    async def _ping(self) -> None:
        try:
            await self._client.ping()
        except REDIS_ERRORS as error:
            self._lost(error)
        else:
            self.outage.found()

    async def close(self) -> None:
        await self._lookups.drain()
        if self._probe is not None:
            await asyncio.wait([self._probe])
        await self._client.aclose()
