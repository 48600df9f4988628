"""The heartbeat of a worker: a thread with its own Redis client.

It renews leases while a batch runs and publishes the worker's record. It ends the process if the model takes
longer than any batch should, or if the heartbeat itself fails.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batcher.core.outage import REDIS_ERRORS, Outage, reason
from batcher.settings import WorkerSettings
from batcher.worker.host import Host
from batcher.worker.queue import WorkerQueue

log = logging.getLogger(__name__)

# Heartbeats per lease: of a worker that holds leases, and of an idle one.
BEATS_PER_LEASE = 4
IDLE_BEATS_PER_LEASE = 2
# The record of a worker expires after this many leases without a heartbeat.
RECORD_LEASES = 2.5
EXIT_HUNG = 70

# The worker's record and that of its model.
Records = tuple[Mapping[str, Any], Mapping[str, Any]]


class Heartbeat:
    """Sends a heartbeat every quarter of a lease, and renews `leases`, a set that other threads change.

    While there are none, every half of a lease. `running_s` says for how long the model has been tokenising
    or computing, 0 if it is not. Calls to Redis have their own timeouts.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        settings: WorkerSettings,
        leases: set[str],
        running_s: Callable[[], float],
        records: Callable[[], Records],
        host: Host = Host(),  # noqa: B008  # immutable
    ) -> None:
        self._queue = queue
        self._lease_s = settings.lease_ms / 1000
        self._ttl_ms = int(settings.lease_ms * RECORD_LEASES)
        self._batch_timeout_s = settings.batch_timeout_s
        self._leases = leases
        self._running_s = running_s
        self._records = records
        self._exit_process = host.exit
        self._stopping, self._stopped = host.event(), host.event()
        self._outage = Outage(now=host.now)
        self._thread = host.daemon("heartbeat", self._run)

    def start(self) -> None:
        """Publishes the record, which makes this worker count as ready. Raises Redis errors."""
        self.announce()
        self.begin()

    def announce(self) -> None:
        """Publishes the records of this worker, whose model becomes the current one. Raises Redis errors."""
        self._queue.heartbeat((), *self._records(), self._ttl_ms, takeover=True)

    def begin(self) -> None:
        """Starts the thread, unless it is running."""
        if not self._thread.is_alive():
            self._thread.start()

    def end_wait(self) -> None:
        """Ends the worker's wait for entries, because it is to stop. Safe to call from a signal handler."""
        self._stopping.set()

    def stop(self, suspects: Sequence[str] = ()) -> None:
        """Stops the heartbeat, removes the worker's record, and ends the leases of `suspects` at once."""
        self._stopping.set()
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

    @property
    def reachable(self) -> bool:
        """Whether Redis has answered the last heartbeat."""
        return self._outage.over

    def send(self) -> bool:
        """Sends one heartbeat. False if the process is to end instead, which it does at once."""
        if self._running_s() > self._batch_timeout_s:
            self._give_up()
            return False
        try:
            self._queue.heartbeat(self._leases.copy(), *self._records(), self._ttl_ms)
            self._outage.found()
        except REDIS_ERRORS as error:
            self._outage.lost(error)
        except Exception as error:
            self._broken(error)
            return False
        return True

    @property
    def pause_s(self) -> float:
        """How long to wait before the next heartbeat."""
        return self._lease_s / (BEATS_PER_LEASE if self._leases else IDLE_BEATS_PER_LEASE)

    def _run(self) -> None:
        while not self._stopping.wait(self.pause_s):
            if not self.send():
                return
        with contextlib.suppress(*REDIS_ERRORS):
            self._queue.wake()
        while not self._stopped.wait(self.pause_s) and self.send():
            pass

    def _broken(self, error: Exception) -> None:
        """Ends the process: without a heartbeat it would keep claiming entries whose leases then expire."""
        log.critical(
            "the heartbeat failed: ending this process",
            exc_info=error,
            extra={"action": "worker.heartbeat", "held": len(self._leases)},
        )
        self._exit_process(EXIT_HUNG)

    def _give_up(self) -> None:
        """Ends the process and lets its leases expire: other workers then retry each entry alone."""
        log.critical(
            "tokenising or a forward pass has run for over %g s: ending this process",
            self._batch_timeout_s,
            extra={"action": "worker.hung", "held": len(self._leases)},
        )
        with contextlib.suppress(*REDIS_ERRORS):
            self._queue.retire()
        self._exit_process(EXIT_HUNG)
