"""How results leave a worker: completed with patience, then written to the cache, their leases dropped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from batcher.core.consumer import WorkerQueue
from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.messages import Prediction
from batcher.worker.heartbeat import Heartbeat
from batcher.worker.inference import Result

# How long results are offered to a Redis that does not answer; then their entries are left to their leases.
PATIENCE_S = 30.0

log = logging.getLogger(__name__)

Remember = Callable[[Iterable[tuple[str, Prediction]]], None]


def encoded(results: Iterable[Result]) -> Iterator[tuple[str, bytes]]:
    """As `complete` takes them. Encoded as late as that: with a backlog it happens beside the next pass."""
    return ((entry, result.encode()) for entry, result in results)


class ResultSender:
    """Brings results to those who wait. `remember` writes a cache that the queue does not write itself, and
    raises nothing.

    Once `stopping`, one try must do.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        heartbeat: Heartbeat,
        outage: Outage,
        remember: Remember,
        stopping: threading.Event,
    ) -> None:
        self._queue = queue
        self._heartbeat = heartbeat
        self._outage = outage
        self._remember = remember
        self._stopping = stopping

    def send(self, results: Sequence[Result]) -> None:
        """Completes, then does what is left to do. Whatever it raises, no lease is kept for these results."""
        try:
            if self.complete(results):
                self.sent(results)
        except BaseException:
            self._heartbeat.drop(entry for entry, _ in results)
            raise

    def complete(self, results: Sequence[Result]) -> bool:
        """Whether Redis took results. Those that it does not take in time are left to their leases."""
        if not results:
            return False
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._queue.complete(encoded(results))
                self._outage.found()
                return True
            except REDIS_ERRORS as error:
                self._outage.lost(error)
                if time.monotonic() > deadline or self._stopping.is_set():
                    self._heartbeat.drop(entry for entry, _ in results)
                    return False
                time.sleep(self._outage.pause_s)

    def sent(self, results: Sequence[Result]) -> None:
        """What is left to do once Redis has them."""
        self._heartbeat.drop(entry for entry, _ in results)
        if not self._queue.remembers:
            self._remember((entry, result) for entry, result in results if isinstance(result, Prediction))
