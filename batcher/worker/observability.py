"""Wires up metrics, drift, traces and probes of a worker. Features that are switched off cost nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from batcher.probe_server import ProbeServer
from batcher.settings import WorkerSettings
from batcher.worker.drift import DriftWatch, WatchedClassifier
from batcher.worker.exchange import OnRoundTrip
from batcher.worker.loop import Worker
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import BatchReport
from batcher.worker.traces import worker_traces
from model_store import Classifier

log = logging.getLogger(__name__)


class Observability:
    """Give the worker `classifier` and `observe`, and its queues `on_round_trip`.

    Metrics exist only if they can be scraped, which requires a `worker_port`.
    """

    def __init__(self, classifier: Classifier, settings: WorkerSettings) -> None:
        self.classifier = classifier
        self.on_round_trip: OnRoundTrip | None = None
        self._metrics: WorkerMetrics | None = None
        self._watched: WatchedClassifier | None = None
        if settings.worker_port:
            watch = DriftWatch(classifier.info)
            self._metrics = WorkerMetrics(classifier.info, watch)
            self.classifier = self._watched = WatchedClassifier(classifier, watch)
        self._traces = worker_traces(classifier.info.revision[:12])
        if self._metrics is not None:
            self.on_round_trip = self._metrics.round_trip

    def attach(self, worker: Worker) -> None:
        """Adds the state of the worker to its metrics."""
        if self._metrics is not None:
            self._metrics.attach(worker)

    @property
    def registry(self) -> CollectorRegistry | None:
        """The metrics, if they can be scraped."""
        return None if self._metrics is None else self._metrics.registry

    def begin(self) -> None:
        """Starts watching for drift: the warm-up is over, and texts now come from clients."""
        if self._watched is not None:
            self._watched.watching = True

    def observe(self, report: BatchReport) -> None:
        """Reports one batch to metrics, traces and the log."""
        if self._metrics is not None:
            self._metrics.observe(report)
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
