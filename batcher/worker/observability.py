"""Wires up metrics, drift, traces and probes of a worker. Features that are switched off cost nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from batcher.probe_server import ProbeServer
from batcher.settings import WorkerSettings
from batcher.worker.drift import DriftWatch
from batcher.worker.loop import Worker
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import BatchReport
from batcher.worker.traces import worker_traces
from model_store import Classifier

log = logging.getLogger(__name__)


class Observability:
    """Give the worker `classifier` and `observe`, and its queues the round trips of `metrics`.

    These exist only if they can be scraped, which requires a `worker_port`.
    """

    def __init__(self, classifier: Classifier, settings: WorkerSettings) -> None:
        self.classifier = classifier
        self.metrics: WorkerMetrics | None = None
        self._traces = worker_traces(classifier.info.revision[:12])
        if settings.worker_port:
            self.metrics = WorkerMetrics(classifier.info, DriftWatch(classifier.info))

    def observe(self, report: BatchReport) -> None:
        """Reports one batch to metrics, traces and the log."""
        if self.metrics is not None:
            self.metrics.observe(report)
        if self._traces is not None:
            self._traces.observe(report)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("batch", extra={"action": "batch", **report.log_context()})


def probes(
    host: str, port: int, workers: Callable[[], Sequence[Worker]], registry: CollectorRegistry
) -> ProbeServer:
    """Answers probes and scrapes of a process. Raises OSError if the port cannot be bound."""
    main = threading.main_thread()

    def live() -> str | None:
        if not main.is_alive():
            return "the main thread has ended"
        if any(worker.state in ("idle", "busy") and not worker.heartbeat.alive for worker in workers()):
            return "the heartbeat has ended"
        return None

    def ready() -> str | None:
        for worker in workers():
            if worker.state not in ("idle", "busy"):
                return f"the worker is {worker.state}"
        over = all(worker.exchange.here.outage.over for worker in workers())
        return None if over else "Redis does not answer"

    return ProbeServer(host, port, registry, live, ready)
