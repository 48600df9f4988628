"""The RQ side of jobs: what RQ's tools show of them. Synchronous.

RQ shows which jobs wait and which process runs which job. Which of them is next, whether it lives, and how it
ended is in the job's own record (`store`), and nothing of what RQ keeps in Redis is read back or run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import Execution
from rq.job import Job
from rq.job import JobStatus as RqStatus
from rq.serializers import JSONSerializer

from batcher.connection.clients import connect
from batcher.connection.redis_url import is_cluster
from batcher.errors import NoJobs
from batcher.jobs.records import is_job_id
from batcher.jobs.store import jobs_prefix
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

# What RQ's own workers would call.
FUNCTION = "batcher.jobs.run"
NO_CLUSTER = "the Redis of jobs is a cluster: write redis+cluster:// (or set MILLRACE_JOBS_REDIS_URL)"
# Keys of RQ are in one slot of a cluster if their prefix has a hash tag, and cannot be used otherwise.
_KEY = f"{RQ_KEY_PREFIX}:queues"
_TAGGED = "{" in RQ_KEY_PREFIX
# RQ forgets a process, and what it runs, so long after its last heartbeat.
WORKER_TTL_S = 60
# What RQ calls the end of a job, and its list of jobs that ended so.
_ENDED = {
    "finished": (RqStatus.FINISHED, "finished_job_registry"),
    "failed": (RqStatus.FAILED, "failed_job_registry"),
    "cancelled": (RqStatus.CANCELED, "canceled_job_registry"),
}


def queue_name(name: str) -> str:
    """The name of RQ's queue of the service `name`: that of its keys. It was `millrace-<name>` in 0.1.0."""
    return jobs_prefix(name).strip("{}")


class JobQueue:
    """Shows jobs to RQ. Nothing is pickled."""

    # Number of items that this process found in RQ's queue and removed.
    refused: ClassVar[int] = 0

    def __init__(self, client: redis.Redis, settings: JobSettings) -> None:
        # In a cluster, RQ shows jobs only if its keys are in one slot.
        self.shown = _TAGGED or not is_cluster(settings.jobs_url)
        self.rq = Queue(queue_name(settings.name), connection=client, serializer=JSONSerializer)
        self.ttl_s = settings.job_ttl_s
        self._checked = is_cluster(settings.jobs_url)

    @classmethod
    def connect(cls, settings: JobSettings, *, timeout_s: float) -> JobQueue:
        """With its own client."""
        client = connect(settings.jobs_url, timeout_s=timeout_s, retries=1, connections=4, key=_KEY)
        return cls(client, settings)

    def check(self) -> None:
        """Raises NoJobs if the server is a node of a cluster that is not named as one. Checks only once."""
        if self._checked:
            return
        try:
            info: dict[str, Any] = self.rq.connection.info("cluster")
        except redis.exceptions.ResponseError:  # the Redis user may not call INFO
            info = {}
        if info.get("cluster_enabled"):
            raise NoJobs(NO_CLUSTER)
        self._checked = True

    def enqueue(self, job_id: str) -> None:
        """Adds a job that waits. Replaces RQ's state of an earlier job with this id."""
        if not self.shown:
            return
        job = self.job(job_id)
        pipe = self.rq.connection.pipeline()
        pipe.multi()
        pipe.delete(job.key)
        pipe.lrem(self.rq.key, 0, job_id)
        self.rq.enqueue_job(job, pipeline=pipe)
        pipe.execute()

    def forget(self, job_id: str) -> None:
        """Removes a job that must not run from the queue, with RQ's state of it."""
        if not self.shown:
            return
        # Not a transaction, which a full Redis refuses whatever is in it.
        pipe = self.rq.connection.pipeline(transaction=False)
        pipe.lrem(self.rq.key, 0, job_id)
        pipe.delete(Job.key_for(job_id))
        pipe.execute()

    def remove_foreign(self, known: Sequence[str]) -> None:
        """Removes what is in the queue and not one of these jobs. Logs and counts foreign items."""
        if not self.shown:
            return
        found: Any = self.rq.connection.lrange(self.rq.key, 0, -1)
        for raw in set(found) - {job_id.encode() for job_id in known}:
            if not self.rq.connection.lrem(self.rq.key, 0, raw):
                continue
            job_id = raw.decode("ascii", "replace")
            if is_job_id(job_id) and self._is_own(job_id):
                self.rq.connection.delete(Job.key_for(job_id))  # of one that could not be forgotten
            else:
                JobQueue.refused += 1
                fields = {"action": "job.refused", "job": job_id[:64]}
                log.error(
                    "removed an item of RQ's queue that is not a job: check who can write to Redis",
                    extra=fields,
                )

    def _is_own(self, job_id: str) -> bool:
        """Whether this service wrote the item. Its job may have ended, and its record may be gone."""
        data: Any = self.rq.connection.hget(Job.key_for(job_id), "data")
        return data is None or data == self.job(job_id).to_dict()["data"]

    def job(self, job_id: str) -> Job:
        """A job as RQ keeps it."""
        return self.rq.create_job(
            FUNCTION,
            args=(job_id,),
            job_id=job_id,
            description=f"classify {job_id}",
            result_ttl=self.ttl_s,
            failure_ttl=self.ttl_s,
        )


class _Worker(SimpleWorker):
    """RQ's record of a process. It never waits for RQ's queue."""

    @property
    def connection_timeout(self) -> int:
        """RQ gives its client at least this time-out."""
        return 0

    def _set_ip_address(self, connection: redis.Redis) -> None:
        try:
            super()._set_ip_address(connection)
        except ValueError:  # redis-py does not expect spaces in the path of a Unix socket
            self.ip_address = "unknown"


class RqWorker:
    """A jobs worker as RQ shows it, and the jobs that it runs."""

    def __init__(self, queue: JobQueue, name: str) -> None:
        self._queue = queue
        self._name = name
        self._running: dict[str, tuple[Job, Execution]] = {}

    @cached_property
    def _worker(self) -> _Worker:
        made = _Worker(
            [self._queue.rq],
            name=self._name,
            connection=self._queue.rq.connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
        )
        made.register_birth()  # type: ignore[no-untyped-call]
        return made

    def died(self) -> None:
        if not self._queue.shown:
            return
        self._worker.register_death()  # type: ignore[no-untyped-call]

    def began(self, job_ids: Sequence[str]) -> None:
        """Moves jobs from the queue to those that run."""
        if not self._queue.shown:
            return
        pipe = self._queue.rq.connection.pipeline()
        for job_id in job_ids:
            job = self._queue.job(job_id)
            pipe.lrem(self._queue.rq.key, 0, job_id)
            job.set_status(RqStatus.STARTED, pipeline=pipe)
            self._running[job_id] = job, Execution.create(job, WORKER_TTL_S, pipe, self._name)
        self._set_state(pipe)
        pipe.execute()

    def ended(self, job_id: str, status: str) -> None:
        """Notes how a job has ended; one that is to be continued waits again."""
        job, execution = self._running.pop(job_id, (None, None))
        if job is None or execution is None:
            return
        queue = self._queue.rq
        pipe = queue.connection.pipeline()
        pipe.multi()
        execution.delete(job=job, pipeline=pipe)
        if status == "running":
            queue.enqueue_job(job, pipeline=pipe)
        elif (ended := _ENDED.get(status)) is not None:
            job.set_status(ended[0], pipeline=pipe)
            registry: Any = getattr(queue, ended[1])
            registry.add(job, ttl=self._queue.ttl_s, pipeline=pipe)
            pipe.expire(job.key, self._queue.ttl_s)
        self._set_state(pipe)
        pipe.execute()

    def heartbeat(self) -> None:
        """Shows that this process lives, and removes what is over from RQ's lists of jobs."""
        if not self._queue.shown:
            return
        queue = self._queue.rq
        pipe = queue.connection.pipeline()
        for job, execution in list(self._running.values()):  # other threads change it
            execution.heartbeat(job.started_job_registry, WORKER_TTL_S, pipe)
        self._worker.heartbeat(pipeline=pipe)
        self._set_state(pipe)
        pipe.delete(queue.intermediate_queue_key)
        for registry in (queue.started_job_registry, *(getattr(queue, name) for _, name in _ENDED.values())):
            pipe.zremrangebyscore(registry.key, 0, time.time())
        pipe.execute()

    def _set_state(self, pipe: Pipeline) -> None:
        self._worker.set_state("busy" if self._running else "idle", pipeline=pipe)
