"""RQ's side of jobs: which queue, how a job is put there and taken away. Synchronous.

RQ only says who runs what next. What the API shows is the job's own record (`job_store`): RQ may call a job
abandoned that has finished (rq issue 2424), or lose one in a crash, and `job_recovery` puts that right.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import redis
from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from batcher.errors import NoJobs
from batcher.jobs.job_class import FUNCTION, MOST_RETRIES, ClassifyJob, RefusedJob, is_job_id
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

NO_CLUSTER = "jobs need a Redis that is no cluster: set MILLRACE_JOBS_REDIS_URL"
# A process that holds this lock for longer has died with it; RQ itself would wait 15 minutes.
MAINTENANCE_LOCK_S = 30
# The run ends itself at its timeout; this much later RQ ends it.
GRACE_S = 60


class JobsQueue(Queue):
    """RQ's queue, which gives out jobs of this service only.

    Its maintenance lock does not outlive a killed worker for long.
    """

    job_class = ClassifyJob
    # Things that this process found in the queue and refused to run.
    refused: ClassVar[int] = 0

    @classmethod
    def lmove(cls, connection: redis.Redis, queue_key: str, timeout: int | None) -> Any:
        """The next job of this service, as RQ takes it. All else that waits is removed and counted."""
        while True:
            taken = super().lmove(connection, queue_key, timeout)
            if taken is None or (reason := _refusal(connection, taken[1])) is None:
                return taken
            connection.lrem(f"{queue_key}:intermediate", 0, taken[1])
            cls.refused += 1
            fields = {"action": "job.refused", "job": taken[1][:64].decode("ascii", "replace")}
            log.error(
                "refused to run what stands in RQ's queue: %s; find out who can write to Redis",
                reason,
                extra=fields,
            )

    def enqueue_dependents(self, job: Job, *args: Any, **kwargs: Any) -> None:
        """No job of this service has any."""

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
        waiting: Any = self.rq.connection.lrange(self.rq.key, 0, -1)
        return running | {job_id.decode("ascii", "replace") for job_id in waiting}

    def _job(self, job_id: str) -> Job:
        return self.rq.create_job(
            FUNCTION,
            args=(job_id,),
            job_id=job_id,
            description=f"classify {job_id}",
            timeout=self._timeout_s,
            result_ttl=self._ttl_s,
            failure_ttl=self._ttl_s,
            retry=Retry(max=MOST_RETRIES, enqueue_at_front=True),
        )


def _refusal(connection: redis.Redis, job_id: bytes) -> str | None:
    """Why what waits under this id may not run; None if it may, or is gone."""
    if not is_job_id(job_id.decode("ascii", "replace")):
        return "its id is not one of this service"
    try:
        ClassifyJob.fetch(job_id.decode(), connection, JSONSerializer)
    except RefusedJob as error:
        return str(error)
    except NoSuchJobError:
        return None
    return None
