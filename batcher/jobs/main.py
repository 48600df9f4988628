"""`millrace jobs`: the worker behind /jobs. It has no model: jobs send their texts to the bulk lane."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable

from rq.serializers import JSONSerializer

from batcher import logs, tracing
from batcher.connection.clients import connect
from batcher.connection.outage import REDIS_ERRORS
from batcher.errors import NoJobs
from batcher.jobs import webhooks
from batcher.jobs.job_class import ClassifyJob
from batcher.jobs.metrics import JobsMetrics
from batcher.jobs.models import JobModels
from batcher.jobs.recovery import JobRecovery
from batcher.jobs.rq_queue import JobQueue, queue_name
from batcher.jobs.rq_worker import (
    HEARTBEAT_S,
    MAINTENANCE_S,
    SOCKET_TIMEOUT_S,
    WORKER_TTL_S,
    JobsWorker,
    OneLineOutage,
)
from batcher.jobs.runner import Connect, run_job
from batcher.jobs.store import JobStore
from batcher.probe_server import ProbeServer
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

RESTART_S = 1.0
EXIT_UNABLE = 2
# RQ calls `batcher.jobs.run` in a process forked from this one; `prepare` sets what that process needs.
_runner: Callable[[str], str] | None = None


def run_prepared(job_id: str) -> str:
    """Runs a job with the runner that `prepare` has set."""
    assert _runner is not None, "jobs can only run in a process of `millrace jobs`"
    return _runner(job_id)


def prepare(settings: JobSettings, store: JobStore, connect: Connect | None = None) -> None:
    """Sets what jobs run with. `connect` opens the queues of a model."""
    global _runner
    worker = os.getpid()

    def runner(job_id: str) -> str:
        def account() -> str:
            record = store.record(job_id)
            return store.account(record) if record else ""

        models = JobModels(settings, account, _stop_requested(worker))
        with contextlib.closing(models), tracing.job_span(job_id, store.trace(job_id)):
            return run_job(job_id, store, connect or models.connect, settings, models.should_stop)

    _runner = runner


def _stop_requested(worker: int) -> Callable[[], bool]:
    """Returns a function that says whether this process received SIGTERM or has lost its worker (a pid).

    RQ forks a process for each job. Its parent is compared with the worker, because the worker may end before
    this function runs.
    """
    received: list[int] = []
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # RQ resets it in the process of a job
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return lambda: bool(received) or worker not in (os.getpid(), os.getppid())


def build_worker(settings: JobSettings) -> JobsWorker:
    """Builds an RQ worker with its own client, because RQ changes the client's timeout. Raises NoJobs."""
    url = settings.jobs_url
    store = JobStore(connect(url, timeout_s=5.0, retries=1), settings.name, settings.job_ttl_s)
    client = connect(url, timeout_s=SOCKET_TIMEOUT_S, retries=1)
    queue = JobQueue(client, settings)
    queue.check()
    prepare(settings, store)
    worker = JobsWorker(
        [queue.rq],
        name=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        connection=client,
        queue_class=type(queue.rq),
        job_class=ClassifyJob,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_S,
        maintenance_interval=MAINTENANCE_S,
        job_monitoring_interval=HEARTBEAT_S,
        log_job_description=False,
        default_result_ttl=settings.job_ttl_s,
    )
    worker.recovery = JobRecovery(store, queue)
    return worker


def main(settings: JobSettings | None = None) -> int:
    """Works until SIGTERM or SIGINT, and survives outages of Redis. Returns the exit status."""
    settings = settings or JobSettings()
    logs.setup(settings.log_level, settings.log_format)
    logging.getLogger("rq.worker").addFilter(OneLineOutage(JobsWorker.outage))
    try:
        if settings.tracing:
            tracing.setup("jobs")
        probes = _probes(settings)
    except tracing.TracingUnavailable as error:
        log.error("%s", error, extra={"action": "jobs.unable"})
        return EXIT_UNABLE
    except OSError as error:
        message = "cannot listen on MILLRACE_JOBS_PORT=%d: %s"
        extra = {"action": "jobs.unable"}
        log.error(message, settings.jobs_port, error, extra=extra)
        return EXIT_UNABLE
    log.info("ready", extra={"action": "jobs.ready", "queue": queue_name(settings.name)})
    client = connect(settings.jobs_url, timeout_s=5.0, retries=1, connections=webhooks.THREADS)
    sending = webhooks.start(JobStore(client, settings.name, settings.job_ttl_s), settings)
    try:
        while _work_once(settings):
            time.sleep(RESTART_S)
    except NoJobs as error:
        log.error("%s", error, extra={"action": "jobs.unable"})
        return EXIT_UNABLE
    finally:
        sending.set()
        if probes is not None:
            probes.close()
    log.info("stopped", extra={"action": "jobs.stopped"})
    return 0


def _probes(settings: JobSettings) -> ProbeServer | None:
    """Starts the server of /metrics, /livez and /readyz of this process; None if no port is set."""
    if not settings.jobs_port:
        return None
    outage = JobsWorker.outage
    main = threading.main_thread()
    client = connect(settings.jobs_url, timeout_s=2.0, retries=1, connections=2)
    metrics = JobsMetrics(JobStore(client, settings.name, settings.job_ttl_s), outage)
    return ProbeServer(
        settings.jobs_port,
        metrics.registry,
        live=lambda: None if main.is_alive() else "the main thread has ended",
        ready=lambda: None if outage.over else "Redis does not answer",
    )


def _work_once(settings: JobSettings) -> bool:
    """Runs an RQ worker, which ends when Redis fails. Returns whether to start another one."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    worker: JobsWorker | None = None
    try:
        worker = build_worker(settings)
        worker.work(logging_level="WARNING")
    except REDIS_ERRORS as error:
        JobsWorker.outage.lost(error)
    finally:
        if worker is not None and worker.horse_pid:
            worker.kill_horse()
            worker.wait_for_horse()
    return worker is None or not worker.stop_requested


if __name__ == "__main__":
    sys.exit(main())
