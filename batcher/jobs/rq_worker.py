"""RQ's forking worker, made to recover when a process is killed or Redis is unavailable."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import Job

from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.jobs.job_class import is_job_id
from batcher.jobs.recovery import JobRecovery
from batcher.jobs.runner import Interrupted

# RQ sends a heartbeat for a running job every HEARTBEAT_S; a job without one for LOST_S is run again.
HEARTBEAT_S = 5
LOST_S = 20
MAINTENANCE_S = 10
WORKER_TTL_S = 60
DEQUEUE_S = 5
# Socket timeout of the worker's client: the value to which RQ would raise it anyway.
SOCKET_TIMEOUT_S = DEQUEUE_S + 10
# Gives processes that serve requests on this machine priority over jobs.
NICENESS = 10


class JobsWorker(Worker):
    """Runs one job at a time, each in its own process. Recovers from crashes within about 30 s."""

    log_result_lifespan = False
    max_connection_wait_time = 2.0
    recovery: JobRecovery | None = None
    outage = Outage()

    @property
    def dequeue_timeout(self) -> int:
        """Longest wait for a job, in seconds: maintenance runs between two waits."""
        return DEQUEUE_S

    @property
    def stop_requested(self) -> bool:
        """Whether `work` ended because of a signal rather than an error."""
        return self._shutdown_requested_date is not None

    def get_heartbeat_ttl(self, job: Job) -> int:
        """Seconds after its last heartbeat at which a job counts as lost."""
        return min(super().get_heartbeat_ttl(job), LOST_S)

    def clean_registries(self) -> None:
        """Runs RQ's maintenance, then the recovery. First removes ids that RQ's maintenance cannot read."""
        for queue in self.queues:
            key = queue.intermediate_queue_key
            found: Any = self.connection.lrange(key, 0, -1)
            for taken in found:
                if not is_job_id(taken.decode("ascii", "replace")):
                    self.connection.lrem(key, 0, taken)
        super().clean_registries()  # type: ignore[no-untyped-call]
        if self.recovery is not None:
            self.recovery.look()

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """Sends the worker's heartbeat; the first one that succeeds ends an outage.

        Raises StopRequested between jobs once a signal has arrived. RQ raises it in the signal handler, where
        it is lost if the signal interrupts code that ignores exceptions.
        """
        super().heartbeat(*args, **kwargs)
        self.outage.found()
        if self.stop_requested and not self.horse_pid:
            raise StopRequested

    def maintain_heartbeats(self, job: Job) -> None:
        """Sends the heartbeat of a running job. The job survives a Redis outage, so its worker must too."""
        try:
            super().maintain_heartbeats(job)
        except REDIS_ERRORS as error:
            self.outage.lost(error)

    def set_current_job_working_time(self, *args: Any, **kwargs: Any) -> None:
        """Updates the figure that `rq info` shows. Failing to do so must not end the worker."""
        try:
            super().set_current_job_working_time(*args, **kwargs)
        except REDIS_ERRORS as error:
            self.outage.lost(error)

    def handle_warm_shutdown_request(self) -> None:
        """Asks the running job to stop: it continues on another worker, or after a restart."""
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Handles errors of a job, except Interrupted: a job that was asked to stop has not failed."""
        if not isinstance(exc_info[1], Interrupted):
            super().handle_exception(job, *exc_info)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Runs one job in this forked process."""
        os.nice(NICENESS)
        super().main_work_horse(job, queue)


class OneLineOutage(logging.Filter):
    """Drops RQ's message for each failed attempt to reach Redis: an outage is logged once, as is its end."""

    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops RQ's messages about connections and reports the outage instead."""
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, REDIS_ERRORS):  # "found an unhandled exception", with a traceback
            self._outage.lost(error)
            return False
        if "could not connect to Redis" in text or "Redis connection timeout" in text:
            self._outage.lost(ConnectionError(text))
            return False
        return True
