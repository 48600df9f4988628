"""Puts jobs back into RQ's queue that it has lost: killed between two of its steps, or set back in time."""

from __future__ import annotations

import logging

from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore

log = logging.getLogger(__name__)


class JobRecovery:
    """Compares what should run with what RQ knows, each time it is asked to.

    A job is moved from list to list in several commands, so one look may miss it; two in a row, seconds
    apart, mean that it is lost. If a look is wrong all the same, the newer run of the job ends the older.
    """

    def __init__(self, store: JobStore, queue: JobQueue) -> None:
        self._store = store
        self._queue = queue
        self._missing: set[str] = set()

    def look(self) -> list[str]:
        """Returns the jobs that were put back."""
        open_ids = self._store.open_ids()
        missing = set(open_ids) - self._queue.known()
        back = [job_id for job_id in open_ids if job_id in missing & self._missing]
        for job_id in back:
            self._queue.enqueue_again(job_id)
            log.warning("job put back into the queue", extra={"action": "job.recovered", "job": job_id})
        self._missing = missing - set(back)
        return back
