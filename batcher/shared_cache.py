"""The long-lived results, one key a text and revision. May live in another Redis than the queue.

A cache that does not answer costs hits and nothing else: it is left alone until it answers again, and nobody
waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
import redis.asyncio

from batcher.coalesce import Coalescer
from batcher.connect import connect, connect_async
from batcher.messages import Prediction, decode_cached
from batcher.outage import REDIS_ERRORS, Outage
from batcher.redis_queue import cache_key, full_key, spread
from batcher.settings import QueueSettings

log = logging.getLogger(__name__)

# The cache is worth waiting for only while it is faster than the model.
LOOKUP_S = 0.5
WRITE_S = 1.0
# After a loss nothing is asked of the cache for this long; then one try shows whether it is back.
PAUSE_S = 1.0
# Batches that wait to be written; more are not remembered.
UNWRITTEN = 16


class SharedCache:
    """Reads for an event loop. A cache that does not answer knows nothing: every lookup is a miss."""

    def __init__(self, client: redis.asyncio.Redis, name: str) -> None:
        self.outage = Outage("cache")
        self._client = client
        self._name = name
        self._lookups: Coalescer[list[str], list[bytes | None]] = Coalescer(self._read)
        self._slots = False
        self._probe: asyncio.Task[None] | None = None
        self._probe_at = 0.0

    @classmethod
    def connect(cls, settings: QueueSettings) -> SharedCache:
        """A cache over a client of its own: the cache's Redis, or else the queue's."""
        client = connect_async(_url(settings), timeout_s=LOOKUP_S, retries=1, connections=4)
        return cls(client, settings.name)

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        """The prediction of each id, or None."""
        if not self.outage.over:
            self._look_again()
            return [None] * len(ids)
        try:
            raws = await self._lookups.ask([cache_key(self._name, revision, entry) for entry in ids])
        except REDIS_ERRORS:
            return [None] * len(ids)
        return [decode_cached(raw) if isinstance(raw, bytes) else None for raw in raws]

    async def _read(self, lookups: Sequence[list[str]]) -> list[list[bytes | None] | Exception]:
        if not self.outage.over:  # lost while this one waited for its turn
            return [[None] * len(keys) for keys in lookups]
        try:
            values = iter(await self._values([key for keys in lookups for key in keys]))
        except REDIS_ERRORS as error:
            self._lost(error)
            raise
        return [[next(values) for _ in keys] for keys in lookups]

    async def _values(self, keys: list[str]) -> Sequence[Any]:
        """What stands under each key. A cluster takes keys of several slots one by one only."""
        if not self._slots:
            try:
                values: list[Any] = await self._client.mget(keys)
                return values
            except redis.exceptions.ClusterCrossSlotError:
                self._slots = True
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    def _lost(self, error: Exception) -> None:
        self.outage.lost(error)
        self._probe_at = time.monotonic() + PAUSE_S

    def _look_again(self) -> None:
        """Asks beside the requests, none of which waits for it."""
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


class CacheWriter:
    """Writes for a worker, in a thread of its own: nothing that is computed waits for the cache.

    Nothing is written while a key `full` exists there.
    """

    def __init__(self, client: redis.Redis, name: str, ttl_s: float, full: str = "") -> None:
        self.outage = Outage("cache")
        self._client = client
        self._name = name
        self._ttl_s = ttl_s
        self._full = full
        self._again_at = 0.0
        self._places = threading.Semaphore(UNWRITTEN)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache")

    @classmethod
    def connect(cls, settings: QueueSettings) -> CacheWriter:
        """A writer over a client of its own: to the cache's Redis, or else the queue's."""
        client = connect(_url(settings), timeout_s=WRITE_S, retries=1)
        full = full_key(settings.name) if settings.cache_here else ""
        return cls(client, settings.name, settings.cache_ttl_s, full)

    def __call__(self, results: Iterable[tuple[str, Prediction]]) -> None:
        """Remembers results soon; not at all while the cache is away, or too slow for what comes."""
        if time.monotonic() >= self._again_at and self._places.acquire(blocking=False):
            self._thread.submit(self._write, list(results))

    def _write(self, results: list[tuple[str, Prediction]]) -> None:
        try:
            if time.monotonic() >= self._again_at and not (self._full and self._client.exists(self._full)):
                remember(self._client, self._name, self._ttl_s, results)
                self.outage.found()
        except REDIS_ERRORS as error:
            self._again_at = time.monotonic() + PAUSE_S
            self.outage.lost(error)
        except Exception:
            log.exception("the cache could not be written", extra={"action": "cache.unwritten"})
        finally:
            self._places.release()

    def close(self) -> None:
        """Returns when what was handed in is written."""
        self._thread.shutdown(wait=True)
        self._client.close()


def remember(client: redis.Redis, name: str, ttl_s: float, results: Iterable[tuple[str, Prediction]]) -> None:
    """Writes (id, prediction) under the revision that computed each; ends are spread by +-10 %."""
    pipe = client.pipeline(transaction=False)
    for entry, prediction in results:
        pipe.set(cache_key(name, prediction.revision, entry), prediction.encode(), px=spread(ttl_s * 1000))
    pipe.execute(raise_on_error=False)


def _url(settings: QueueSettings) -> str:
    return (settings.cache_url or settings.redis_url).get_secret_value()
