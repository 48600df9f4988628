"""RQ's forking worker, with what RQ leaves to chance when something is killed or Redis goes away."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from rq import Queue, Worker
from rq.job import Job

from batcher.core.outage import REDIS_ERRORS, Outage
from batcher.jobs.job_class import is_job_id
from batcher.jobs.recovery import JobRecovery
from batcher.jobs.runner import Interrupted

# RQ beats for a running job every BEAT_S; a job without a beat for LOST_S is run again.
BEAT_S = 5
LOST_S = 20
MAINTENANCE_S = 10
WORKER_TTL_S = 60
DEQUEUE_S = 5
# Of the client that the worker is given: RQ itself raises it to this.
SOCKET_TIMEOUT_S = DEQUEUE_S + 10
# A job gives way to whoever waits on a socket of this machine.
NICENESS = 10


class JobsWorker(Worker):
    """Runs jobs one after the other, each in a process of its own. Recovers within about 30 s."""

    log_result_lifespan = False
    max_connection_wait_time = 2.0
    recovery: JobRecovery | None = None
    outage = Outage()

    @property
    def dequeue_timeout(self) -> int:
        """Seconds until maintenance gets its turn."""
        return DEQUEUE_S

    @property
    def told_to_stop(self) -> bool:
        """Whether a signal ended `work`, and not an accident."""
        return self._shutdown_requested_date is not None

    def get_heartbeat_ttl(self, job: Job) -> int:
        """Seconds after the last beat at which a job counts as lost."""
        return min(super().get_heartbeat_ttl(job), LOST_S)

    def clean_registries(self) -> None:
        """RQ's maintenance, then ours. RQ cannot read what is no id of a job."""
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
        """A beat of the worker; the first that succeeds after an outage ends it."""
        super().heartbeat(*args, **kwargs)
        self.outage.found()

    def maintain_heartbeats(self, job: Job) -> None:
        """A beat of a running job. The job survives an outage of Redis, so its worker must, too."""
        try:
            super().maintain_heartbeats(job)
        except REDIS_ERRORS as error:
            self.outage.lost(error)

    def set_current_job_working_time(self, *args: Any, **kwargs: Any) -> None:
        """For `rq info`; not worth ending for."""
        try:
            super().set_current_job_working_time(*args, **kwargs)
        except REDIS_ERRORS as error:
            self.outage.lost(error)

    def handle_warm_shutdown_request(self) -> None:
        """Asks the running job to stop where it is: it continues elsewhere, or after the restart."""
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """A job that was asked to stop did nothing wrong."""
        if not isinstance(exc_info[1], Interrupted):
            super().handle_exception(job, *exc_info)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """The process of one job."""
        os.nice(NICENESS)
        super().main_work_horse(job, queue)


class OneLineOutage(logging.Filter):
    """RQ tells of every vain attempt to reach Redis; we tell of the loss and of the return."""

    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops what RQ says of connections."""
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, REDIS_ERRORS):  # "found an unhandled exception", with a traceback
            self._outage.lost(error)
            return False
        if "could not connect to Redis" in text or "Redis connection timeout" in text:
            self._outage.lost(ConnectionError(text))
            return False
        return True
