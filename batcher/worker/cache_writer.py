"""Writes a worker's results to the shared cache from a separate thread, so that no answer waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from uuid import uuid4

from batcher.connection import scripts
from batcher.connection.clients import Redis, connect, round_trip
from batcher.connection.outage import REDIS_ERRORS, Outage, full
from batcher.core.commands import spread
from batcher.core.keys import cache_key, epoch_key, full_key
from batcher.messages import Prediction
from batcher.settings import QueueSettings
from batcher.shards import Shard, by_shard

log = logging.getLogger(__name__)

WRITE_S = 1.0
# Writes are skipped for this long after one has failed.
PAUSE_S = 1.0
# Batches that may wait to be written; further ones are not cached.
UNWRITTEN = 16
# How long the epoch of a cache that is not written lasts.
EPOCH_MS = 3_600_000


class CacheWriter:
    """Writes results to the cache in its own thread: of the service `name`, or of one of its models.

    Nothing is written while the key `full` exists in the cache's Redis.
    """

    def __init__(self, client: Redis, name: str, ttl_s: float, full: str = "") -> None:
        self.outage = Outage("cache")
        self._client = client
        self._name = name
        self._ttl_s = ttl_s
        self._full = full
        self._again_at = 0.0
        self._places = threading.Semaphore(UNWRITTEN)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache")

    @classmethod
    def connect(cls, settings: QueueSettings, shard: Shard) -> CacheWriter:
        """Returns a writer with its own client for the cache's Redis or, if none is set, the queue's."""
        client = connect(settings.cache_address(shard), timeout_s=WRITE_S, retries=1, key=shard.prefix)
        name = settings.cache_name(shard)
        if settings.cache_here:
            return cls(client, name, settings.cache_ttl_s, full_key(shard.name))
        return FencedCacheWriter(client, name, settings.cache_ttl_s)

    def __call__(self, results: Iterable[tuple[str, Prediction]], claimed_at: float) -> None:
        """Schedules results to be written; drops them while the cache is unavailable or falls behind.

        `claimed_at` is when the first of the texts was claimed (monotonic seconds).
        """
        if time.monotonic() >= self._again_at and self._places.acquire(blocking=False):
            self._thread.submit(self._write, list(results), claimed_at)

    def _write(self, results: list[tuple[str, Prediction]], claimed_at: float) -> None:
        try:
            if time.monotonic() >= self._again_at and not (self._full and self._client.exists(self._full)):
                self._remember(results, claimed_at)
                self.outage.found()
        except REDIS_ERRORS as error:
            self._again_at = time.monotonic() + PAUSE_S
            self.outage.lost(error)
        except Exception:
            log.exception("writing to the cache failed", extra={"action": "cache.unwritten"})
        finally:
            self._places.release()

    def _remember(self, results: list[tuple[str, Prediction]], claimed_at: float) -> None:
        remember(self._client, self._name, self._ttl_s, results)

    def close(self) -> None:
        """Waits until everything scheduled is written, then closes the client."""
        self._thread.shutdown(wait=True)
        self._client.close()


class FencedCacheWriter(CacheWriter):
    """Writes to a cache with its own Redis: nothing of texts that may have been forgotten meanwhile.

    Forgetting ends the epoch of the cache (see remember.lua). Results are written if their texts were claimed
    after this process had learned the epoch that still holds. So after a forget, a worker drops what it has
    not written, and what it was doing.
    """

    def __init__(self, client: Redis, name: str, ttl_s: float) -> None:
        super().__init__(client, name, ttl_s)
        self._key = epoch_key(name.partition("/")[0])
        self._epoch = ""
        self._known_at = inf
        self([], 0.0)  # learns the epoch before the first text is claimed

    def _remember(self, results: list[tuple[str, Prediction]], claimed_at: float) -> None:
        known = self._epoch if claimed_at > self._known_at else ""
        words: list[str | bytes | int] = [known, uuid4().hex, EPOCH_MS]
        for entry, one in results:
            words += [cache_key(self._name, one.revision, entry), one.encode(), spread(self._ttl_s * 1000)]
        epoch = self._run(words)
        if epoch != self._epoch:
            self._epoch, self._known_at = epoch, time.monotonic()

    def _run(self, words: Sequence[str | bytes | int]) -> str:
        """Runs the script, and returns the epoch. Raises the error with which Redis refuses it."""
        try:
            return str(scripts.run(self._client, "remember", self._key, *words).decode())
        except REDIS_ERRORS as error:
            if full(error):
                return self._epoch
            raise


class ShardedCacheWriter:
    """Writes each result to the cache of its shard."""

    def __init__(self, writers: Sequence[CacheWriter]) -> None:
        self._writers = tuple(writers)

    def __call__(self, results: Iterable[tuple[str, Prediction]], claimed_at: float) -> None:
        """Schedules results to be written, as `CacheWriter` does."""
        pairs = list(results)
        for number, part in by_shard(pairs, [entry for entry, _ in pairs], len(self._writers)).items():
            self._writers[number](part, claimed_at)

    def close(self) -> None:
        """Waits until everything scheduled is written, then closes the clients."""
        for writer in self._writers:
            writer.close()


def connect_writer(settings: QueueSettings) -> CacheWriter | ShardedCacheWriter:
    """The writer of a worker: to the cache's Redis, or else to all of the queue's."""
    shards = settings.queue_shards
    if len(shards) == 1 or not settings.cache_here:
        return CacheWriter.connect(settings, shards[0])
    return ShardedCacheWriter([CacheWriter.connect(settings, shard) for shard in shards])


def remember(client: Redis, name: str, ttl_s: float, results: Iterable[tuple[str, Prediction]]) -> None:
    """Writes each (id, prediction) under the revision that computed it; expiry times vary by ±10 %."""
    commands = [
        ("SET", cache_key(name, one.revision, entry), one.encode(), "PX", spread(ttl_s * 1000))
        for entry, one in results
    ]
    round_trip(client, commands)
