"""Wires up metrics, drift, traces and probes of a worker. What is switched off costs nothing."""

from __future__ import annotations

import logging
import threading

from batcher.probe_server import ProbeServer
from batcher.settings import WorkerSettings
from batcher.worker.drift import DriftWatch, WatchedClassifier
from batcher.worker.loop import Worker
from batcher.worker.metrics import OnRoundTrip, WorkerMetrics
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
        self._port = settings.worker_port
        self._metrics: WorkerMetrics | None = None
        self._watched: WatchedClassifier | None = None
        self._probes: ProbeServer | None = None
        if self._port:
            watch = DriftWatch(classifier.info)
            self._metrics = WorkerMetrics(classifier.info, watch)
            self.classifier = self._watched = WatchedClassifier(classifier, watch)
        self._traces = worker_traces(classifier.info.revision[:12])
        if self._metrics is not None:
            self.on_round_trip = self._metrics.round_trip

    def attach(self, worker: Worker) -> None:
        """Starts to answer probes and scrapes. Raises OSError if the port cannot be bound."""
        if self._metrics is None:
            return
        self._metrics.attach(worker)
        main = threading.main_thread()

        def live() -> str | None:
            if not main.is_alive():
                return "the main thread has ended"
            if worker.state in ("idle", "busy") and not worker.heartbeat.alive:
                return "the heartbeat has ended"
            return None

        def ready() -> str | None:
            if worker.state not in ("idle", "busy"):
                return f"the worker is {worker.state}"
            return None if worker.exchange.outage.over else "Redis does not answer"

        self._probes = ProbeServer(self._port, self._metrics.registry, live, ready)

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

    def close(self) -> None:
        """Stops the probe server."""
        if self._probes is not None:
            self._probes.close()
