"""Writes long-lived results for a worker, in a thread of its own, so that no answer waits for the cache."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from batcher.core.connection import Redis, connect
from batcher.core.keys import cache_key, full_key, spread
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.messages import Prediction
from batcher.settings import QueueSettings

log = logging.getLogger(__name__)

WRITE_S = 1.0
# After a failed write nothing is written for this long.
PAUSE_S = 1.0
# Batches that wait to be written; more are not remembered.
UNWRITTEN = 16


class CacheWriter:
    """Writes for a worker, in a thread of its own: nothing that is computed waits for the cache.

    Nothing is written while a key `full` exists there.
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
    def connect(cls, settings: QueueSettings) -> CacheWriter:
        """A writer over a client of its own: to the cache's Redis, or else the queue's."""
        client = connect(settings.cache_address, timeout_s=WRITE_S, retries=1)
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


def remember(client: Redis, name: str, ttl_s: float, results: Iterable[tuple[str, Prediction]]) -> None:
    """Writes (id, prediction) under the revision that computed each; ends are spread by +-10 %."""
    pipe = client.pipeline(transaction=False)
    for entry, prediction in results:
        pipe.set(cache_key(name, prediction.revision, entry), prediction.encode(), px=spread(ttl_s * 1000))
    pipe.execute(raise_on_error=False)
