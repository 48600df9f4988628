"""RQ's side of jobs: which queue, how a job is put there and taken away. Synchronous.

RQ only says who runs what next. What the API shows is the job's own record (`job_store`): RQ may call a job
abandoned that has finished (rq issue 2424), or lose one in a crash, and `job_recovery` puts that right.
"""

from __future__ import annotations

from typing import Any

import redis
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from batcher import tracing
from batcher.errors import NoJobs
from batcher.settings import JobSettings

NO_CLUSTER = "jobs need a Redis that is no cluster: set MILLRACE_JOBS_REDIS_URL"
FUNCTION = "batcher.jobs.run"
# A process that holds this lock for longer has died with it; RQ itself would wait 15 minutes.
MAINTENANCE_LOCK_S = 30
# RQ's own bound is out of the way: attempts without progress are counted in the job's record.
MOST_RETRIES = 10_000
# The run ends itself at its timeout; this much later RQ ends it.
GRACE_S = 60
# Of a job's meta data: the traceparent of the request that handed it in.
TRACE = "trace"


class JobsQueue(Queue):
    """RQ's queue, whose maintenance lock does not outlive a killed worker for long."""

    def acquire_maintenance_lock(self) -> bool:
        """Whether this worker may do maintenance now."""
        return bool(self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=MAINTENANCE_LOCK_S))


class JobQueue:
    """Jobs that wait for a jobs worker. Nothing is pickled."""

    def __init__(self, client: redis.Redis, settings: JobSettings) -> None:
        self.rq = JobsQueue(f"millrace-{settings.name}", connection=client, serializer=JSONSerializer)
        self._ttl_s = settings.job_ttl_s
        self._timeout_s = settings.job_timeout_s + GRACE_S
        self._checked = False

    def check(self) -> None:
        """Raises NoJobs for a cluster: RQ's commands name keys of several slots. Redis is asked once."""
        if self._checked:
            return
        try:
            facts: dict[str, Any] = self.rq.connection.info("cluster")
        except redis.exceptions.ResponseError:  # a user who may not ask
            facts = {}
        if facts.get("cluster_enabled"):
            raise NoJobs(NO_CLUSTER)
        self._checked = True

    def enqueue(self, job_id: str, *, at_front: bool = False) -> None:
        """Puts a job into the queue. What RQ knows of an earlier job of this id is replaced."""
        job = self._job(job_id)
        pipe = self.rq.connection.pipeline()
        pipe.multi()
        pipe.delete(job.key)
        self.rq.enqueue_job(job, pipeline=pipe, at_front=at_front)
        pipe.execute()

    def enqueue_again(self, job_id: str) -> None:
        """Puts a job at the front that RQ has lost, whatever it still knows of it."""
        self.rq.intermediate_queue.remove(job_id)
        self.enqueue(job_id, at_front=True)

    def forget(self, job_id: str) -> None:
        """Takes a job that shall not run out of the queue, and away with what RQ knows of it."""
        pipe = self.rq.connection.pipeline()
        pipe.lrem(self.rq.key, 0, job_id)
        pipe.delete(Job.key_for(job_id))
        pipe.execute()

    def known(self) -> set[str]:
        """Jobs that wait, or that a worker was running a heartbeat ago."""
        started = self.rq.started_job_registry
        expired = set(started.get_expired_job_ids())
        running = set(started.get_job_ids(cleanup=False)) - expired
        return running | set(self.rq.get_job_ids())

    def _job(self, job_id: str) -> Job:
        return self.rq.create_job(
            FUNCTION,
            args=(job_id,),
            job_id=job_id,
            description=f"classify {job_id}",
            meta={TRACE: tracing.current()},
            timeout=self._timeout_s,
            result_ttl=self._ttl_s,
            failure_ttl=self._ttl_s,
            retry=Retry(max=MOST_RETRIES, enqueue_at_front=True),
        )
