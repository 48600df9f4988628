"""Re-enqueues jobs that RQ lost when a process was killed between two steps, or when Redis lost writes."""

from __future__ import annotations

import logging

from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore

log = logging.getLogger(__name__)


class JobRecovery:
    """Compares the jobs that should run with those that RQ knows.

    RQ moves a job between lists in several commands, so a single check may miss it; a job missing from two
    consecutive checks, seconds apart, counts as lost. Should that be wrong, the newer run ends the older one.
    """

    def __init__(self, store: JobStore, queue: JobQueue) -> None:
        self._store = store
        self._queue = queue
        self._missing: set[str] = set()

    def look(self) -> list[str]:
        """Re-enqueues lost jobs and returns their ids."""
        open_ids = self._store.open_ids()
        missing = set(open_ids) - self._queue.known()
        back = [job_id for job_id in open_ids if job_id in missing & self._missing]
        for job_id in back:
            self._queue.enqueue_again(job_id)
            log.warning("job enqueued again", extra={"action": "job.recovered", "job": job_id})
        self._missing = missing - set(back)
        return back
