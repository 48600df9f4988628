"""`millrace jobs`: the worker behind /jobs. It has no model: jobs send their texts to the bulk lane."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from batcher import gc_tuning, logs, tracing
from batcher.connection.outage import Outage
from batcher.errors import NoJobs
from batcher.jobs import webhooks
from batcher.jobs.metrics import jobs_registry
from batcher.jobs.models import JobModels
from batcher.jobs.rq_queue import JobQueue, RqWorker, queue_name
from batcher.jobs.store import JobStore, connect_jobs
from batcher.jobs.upload import budget_of
from batcher.jobs.worker import JobsWorker
from batcher.probe_server import ProbeServer
from batcher.settings import JobSettings
from batcher.version import process_name

log = logging.getLogger(__name__)

EXIT_UNABLE = 2
# Connections for the commands of all jobs that run at once.
CONNECTIONS = 8
# Gives processes that serve requests on this machine priority over jobs.
NICENESS = 10


class JobsProcess:
    """The worker, its probes and its webhooks. Raises OSError if the port cannot be bound."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._outage = Outage()
        self._worker: JobsWorker | None = None
        self._probes = self._start_probes() if settings.jobs_port else None

    async def work(self) -> None:
        """Works until SIGTERM or SIGINT. Raises NoJobs."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="jobs"))
        queue = JobQueue.connect(settings, timeout_s=5.0)
        rq, models = RqWorker(queue, process_name()), JobModels(settings)
        worker = JobsWorker(self._store(CONNECTIONS), queue, rq, models, settings, self._outage)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        self._worker = worker
        sending = webhooks.start(self._store(webhooks.THREADS), settings)
        log.info("ready", extra={"action": "jobs.ready", "queue": queue_name(settings.name)})
        try:
            await worker.work()
        finally:
            sending.set()

    def close(self) -> None:
        if self._probes is not None:
            self._probes.close()

    def _store(self, connections: int, timeout_s: float = 5.0) -> JobStore:
        settings = self._settings
        client = connect_jobs(settings, timeout_s=timeout_s, connections=connections)
        kept = settings.job_ttl_s, budget_of(settings), settings.usage_days
        return JobStore(client, settings.name, *kept)

    def _start_probes(self) -> ProbeServer:
        """Starts the server of /metrics, /livez and /readyz of this process."""
        return ProbeServer(
            self._settings.host,
            self._settings.jobs_port,
            jobs_registry(self._store(2, timeout_s=2.0), self._outage),
            live=self._stuck,
            ready=lambda: "the process is starting" if self._worker is None else self._worker.problem,
        )

    def _stuck(self) -> str | None:
        stuck = self._worker is not None and self._worker.stuck
        return "the loop that runs jobs stands still" if stuck else None


def main(settings: JobSettings | None = None) -> int:
    """Works until SIGTERM or SIGINT, and survives outages of Redis. Returns the exit status."""
    settings = settings or JobSettings()
    logs.setup(settings.log_level, settings.log_format)
    os.nice(NICENESS)
    gc_tuning.keep_large_blocks_apart()
    gc_tuning.share_one_arena()
    try:
        if settings.tracing:
            tracing.setup("jobs")
        process = JobsProcess(settings)
    except tracing.TracingUnavailable as error:
        log.error("%s", error, extra={"action": "jobs.unable"})
        return EXIT_UNABLE
    except OSError as error:
        message = "cannot listen on MILLRACE_JOBS_PORT=%d: %s"
        extra = {"action": "jobs.unable"}
        log.error(message, settings.jobs_port, error, extra=extra)
        return EXIT_UNABLE
    try:
        asyncio.run(process.work())
    except NoJobs as error:
        log.error("%s", error, extra={"action": "jobs.unable"})
        return EXIT_UNABLE
    finally:
        process.close()
    log.info("stopped", extra={"action": "jobs.stopped"})
    return 0
