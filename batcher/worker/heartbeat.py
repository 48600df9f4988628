"""The heartbeat of a worker: a thread with its own Redis client.

It renews leases while a batch runs and publishes the worker's record. It ends the process if work between
claim and complete takes longer than any batch should, or if the heartbeat itself fails.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from batcher.core.outage import REDIS_ERRORS, Outage, reason
from batcher.worker.queue import WorkerQueue

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 4
# The record of a worker expires after this many leases without a heartbeat.
RECORD_LEASES = 2.5
EXIT_HUNG = 70


class Heartbeat:
    """Sends a heartbeat every quarter of a lease. `hold` and `drop` set whose leases it renews."""

    def __init__(
        self,
        queue: WorkerQueue,
        *,
        lease_ms: int,
        batch_timeout_s: float,
        model: Mapping[str, Any],
        record: Callable[[], Mapping[str, Any]],
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._queue = queue
        self._every_s = lease_ms / 1000 / BEATS_PER_LEASE
        self._ttl_ms = int(lease_ms * RECORD_LEASES)
        self._batch_timeout_s = batch_timeout_s
        self._model = model
        self._record = record
        self._exit_process = exit_process
        self._held: set[str] = set()
        self._lock = threading.Lock()
        # When each thread began its current work (monotonic seconds).
        self._began: dict[int, float] = {}
        self._stopped = threading.Event()
        self._outage = Outage()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Publishes the record, which makes this worker count as ready. Raises Redis errors."""
        self._queue.beat((), self._record(), self._model, self._ttl_ms, takeover=True)
        self._thread.start()

    def stop(self, suspects: Sequence[str] = ()) -> None:
        """Stops the heartbeat, removes the worker's record, and ends the leases of `suspects` at once."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._queue.retire(suspects)
        except REDIS_ERRORS as error:
            log.warning(
                "could not remove the record of this worker: %s",
                reason(error),
                extra={"action": "worker.retire"},
            )

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def hold(self, ids: Iterable[str]) -> None:
        with self._lock:
            self._held.update(ids)

    def drop(self, ids: Iterable[str]) -> None:
        with self._lock:
            self._held.difference_update(ids)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends the process if the enclosed work on claimed entries takes longer than `batch_timeout_s`.

        Use it in any thread. Calls to Redis have their own timeouts.
        """
        thread = threading.get_ident()
        with self._lock:
            self._began[thread] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._began[thread]

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            with self._lock:
                began = min(self._began.values(), default=None)
            if began is not None and time.monotonic() - began > self._batch_timeout_s:
                self._give_up()
                return
            try:
                self._beat()
            except Exception as error:
                self._broken(error)
                return

    def _beat(self) -> None:
        with self._lock:
            ids = tuple(self._held)
        try:
            self._queue.beat(ids, self._record(), self._model, self._ttl_ms)
            self._outage.found()
        except REDIS_ERRORS as error:
            self._outage.lost(error)

    def _broken(self, error: Exception) -> None:
        """Ends the process: without a heartbeat it would keep claiming entries whose leases then expire."""
        log.critical(
            "the heartbeat failed: ending this process",
            exc_info=error,
            extra={"action": "worker.heartbeat", "held": len(self._held)},
        )
        self._exit_process(EXIT_HUNG)

    def _give_up(self) -> None:
        """Ends the process and lets its leases expire: other workers then retry each entry alone."""
        log.critical(
            "tokenising or a forward pass has run for over %g s: ending this process",
            self._batch_timeout_s,
            extra={"action": "worker.hung", "held": len(self._held)},
        )
        with contextlib.suppress(*REDIS_ERRORS):
            self._queue.retire()
        self._exit_process(EXIT_HUNG)
