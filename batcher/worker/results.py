"""Sends a worker's results to Redis, with retries, then writes them to the cache and drops their leases."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.messages import Prediction
from batcher.worker.heartbeat import Heartbeat
from batcher.worker.inference import Result
from batcher.worker.queue import WorkerQueue

# How long to retry while Redis does not answer. After that, the leases expire and the entries are run again.
PATIENCE_S = 30.0

log = logging.getLogger(__name__)

Remember = Callable[[Iterable[tuple[str, Prediction]]], None]


def encoded(results: Iterable[Result]) -> Iterator[tuple[str, bytes]]:
    """Encodes results for `complete`, lazily: with a backlog, this then happens while the next batch runs."""
    return ((entry, result.encode()) for entry, result in results)


class ResultSender:
    """Sends results to the callers that wait for them.

    `remember` writes the cache if the queue does not do so itself; it must not raise. Once `stopping` is
    set, a failed attempt is not retried.
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
        """Completes results, then calls `sent`. On any error, their leases are no longer renewed."""
        try:
            if self.complete(results):
                self.sent(results)
        except BaseException:
            self._heartbeat.drop(entry for entry, _ in results)
            raise

    def complete(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        """Whether Redis accepted the results. If it does not in time, their leases are left to expire.

        `idle`: the worker has nothing else to do.
        """
        if not results:
            return False
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._queue.complete(encoded(results), idle)
                if not self._outage.over:
                    self._outage.found()
                return True
            except REDIS_ERRORS as error:
                self._outage.lost(error)
                if time.monotonic() > deadline or self._stopping.is_set():
                    self._heartbeat.drop(entry for entry, _ in results)
                    return False
                time.sleep(self._outage.pause_s)

    def sent(self, results: Sequence[Result]) -> None:
        """Drops leases and updates the cache once Redis has the results."""
        self._heartbeat.drop(entry for entry, _ in results)
        if not self._queue.remembers:
            self._remember((entry, result) for entry, result in results if isinstance(result, Prediction))
