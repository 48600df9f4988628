"""Writes a worker's results to the shared cache from a separate thread, so that no answer waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from batcher.connection.clients import Redis, connect, round_trip
from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.core.commands import spread
from batcher.core.keys import cache_key, full_key
from batcher.messages import Prediction
from batcher.settings import QueueSettings
from batcher.shards import Shard, by_shard

log = logging.getLogger(__name__)

WRITE_S = 1.0
# Writes are skipped for this long after one has failed.
PAUSE_S = 1.0
# Batches that may wait to be written; further ones are not cached.
UNWRITTEN = 16


class CacheWriter:
    """Writes results to the cache in its own thread.

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
        full = full_key(shard.name) if settings.cache_here else ""
        return cls(client, settings.cache_name(shard), settings.cache_ttl_s, full)

    def __call__(self, results: Iterable[tuple[str, Prediction]]) -> None:
        """Schedules results to be written; drops them while the cache is unavailable or falls behind."""
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
            log.exception("writing to the cache failed", extra={"action": "cache.unwritten"})
        finally:
            self._places.release()

    def close(self) -> None:
        """Waits until everything scheduled is written, then closes the client."""
        self._thread.shutdown(wait=True)
        self._client.close()


class ShardedCacheWriter:
    """Writes each result to the cache of its shard."""

    def __init__(self, writers: Sequence[CacheWriter]) -> None:
        self._writers = tuple(writers)

    def __call__(self, results: Iterable[tuple[str, Prediction]]) -> None:
        """Schedules results to be written, as `CacheWriter` does."""
        pairs = list(results)
        for number, part in by_shard(pairs, [entry for entry, _ in pairs], len(self._writers)).items():
            self._writers[number](part)

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
