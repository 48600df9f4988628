"""The RQ side of jobs: adds them to RQ's queue and removes them. Synchronous.

RQ only decides which worker runs which job next. The API shows the job's own record (`store`) instead of RQ's
state: RQ may call a finished job abandoned (rq issue 2424) or lose one in a crash, which `recovery` repairs.
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
from batcher.jobs.job_class import FUNCTION, MAX_RETRIES, ClassifyJob, RefusedJob, is_job_id
from batcher.jobs.store import jobs_prefix
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

NO_CLUSTER = "Redis Cluster does not support jobs: set MILLRACE_JOBS_REDIS_URL to a standalone Redis"
# The lock of a worker that dies expires after this long; RQ's default is 15 minutes.
MAINTENANCE_LOCK_S = 30
# A run ends itself at its timeout; RQ ends it this much later, should that fail.
GRACE_S = 60


def queue_name(name: str) -> str:
    """The name of RQ's queue of the service `name`: that of its keys. It was `millrace-<name>` in 0.1.0."""
    return jobs_prefix(name).strip("{}")


class RqQueue(Queue):
    """RQ's queue, restricted to jobs of this service, with a maintenance lock that expires sooner."""

    job_class = ClassifyJob
    # Number of items that this process found in the queue and refused to run.
    refused: ClassVar[int] = 0

    @classmethod
    def lmove(cls, connection: redis.Redis, queue_key: str, timeout: int | None) -> Any:
        """Moves the next job of this service as RQ does; removes and counts anything else in the queue."""
        while True:
            taken = super().lmove(connection, queue_key, timeout)
            if taken is None or (reason := _refusal(connection, taken[1])) is None:
                return taken
            connection.lrem(f"{queue_key}:intermediate", 0, taken[1])
            cls.refused += 1
            fields = {"action": "job.refused", "job": taken[1][:64].decode("ascii", "replace")}
            log.error(
                "refused to run an item of RQ's queue: %s; check who can write to Redis",
                reason,
                extra=fields,
            )

    def enqueue_dependents(self, job: Job, *args: Any, **kwargs: Any) -> None:
        """Does nothing: jobs of this service have no dependents."""

    def acquire_maintenance_lock(self) -> bool:
        """Whether this worker may do maintenance now."""
        connection = self.connection
        key = self.registry_cleaning_key
        if connection.ttl(key) > MAINTENANCE_LOCK_S:  # the clock of Redis has been set back
            connection.delete(key)
        return bool(connection.set(key, 1, nx=True, ex=MAINTENANCE_LOCK_S))


class JobQueue:
    """Adds jobs to RQ's queue and removes them. Nothing is pickled."""

    def __init__(self, client: redis.Redis, settings: JobSettings) -> None:
        self.rq = RqQueue(queue_name(settings.name), connection=client, serializer=JSONSerializer)
        self._ttl_s = settings.job_ttl_s
        self._timeout_s = settings.job_timeout_s + GRACE_S
        self._checked = False

    def check(self) -> None:
        """Raises NoJobs on Redis Cluster, where RQ's multi-key commands do not work. Checks only once."""
        if self._checked:
            return
        try:
            info: dict[str, Any] = self.rq.connection.info("cluster")
        except redis.exceptions.ResponseError:  # the Redis user may not call INFO
            info = {}
        if info.get("cluster_enabled"):
            raise NoJobs(NO_CLUSTER)
        self._checked = True

    def enqueue(self, job_id: str, *, at_front: bool = False) -> None:
        """Enqueues a job. Replaces RQ's state of an earlier job with this id."""
        job = self._job(job_id)
        pipe = self.rq.connection.pipeline()
        pipe.multi()
        pipe.delete(job.key)
        self.rq.enqueue_job(job, pipeline=pipe, at_front=at_front)
        pipe.execute()

    def enqueue_again(self, job_id: str) -> None:
        """Enqueues a job that RQ has lost at the front of the queue, whatever state RQ still has of it."""
        self.rq.intermediate_queue.remove(job_id)
        self.enqueue(job_id, at_front=True)

    def forget(self, job_id: str) -> None:
        """Removes a job that must not run from the queue, with RQ's state of it."""
        pipe = self.rq.connection.pipeline()
        pipe.lrem(self.rq.key, 0, job_id)
        pipe.delete(Job.key_for(job_id))
        pipe.execute()

    def known(self) -> set[str]:
        """Jobs that wait in the queue, or that a worker with a recent heartbeat is running."""
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
            retry=Retry(max=MAX_RETRIES, enqueue_at_front=True),
        )


def _refusal(connection: redis.Redis, job_id: bytes) -> str | None:
    """Why the job of this id may not run; None if it may, or no longer exists."""
    if not is_job_id(job_id.decode("ascii", "replace")):
        return "its id is not a job id of this service"
    try:
        ClassifyJob.fetch(job_id.decode(), connection, JSONSerializer)
    except RefusedJob as error:
        return str(error)
    except NoSuchJobError:
        return None
    return None
