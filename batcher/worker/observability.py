"""Wires up metrics, drift, traces and probes of a worker. Features that are switched off cost nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from batcher.probe_server import ProbeServer
from batcher.settings import WorkerSettings
from batcher.tracing import parent_of, provider
from batcher.worker.drift import DriftWatch
from batcher.worker.loop import Worker
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import BatchReport
from model_store import Classifier

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)
# Links of one batch span.
MAX_LINKS = 64


class Observability:
    """Give the worker `classifier` and `observe`, and its queues the round trips of `metrics`.

    These exist only if they can be scraped, which requires a `worker_port`.
    """

    def __init__(self, classifier: Classifier, settings: WorkerSettings) -> None:
        self.classifier = classifier
        self.metrics: WorkerMetrics | None = None
        self.traces: WorkerTraces | None = None
        if (spans := provider()) is not None:
            self.traces = WorkerTraces(spans, classifier.info.revision[:12])
        if settings.worker_port:
            self.metrics = WorkerMetrics(classifier.info, DriftWatch(classifier.info))

    def observe(self, report: BatchReport) -> None:
        """Reports one batch to metrics, traces and the log."""
        if self.metrics is not None:
            self.metrics.observe(report)
        if self.traces is not None:
            self.traces.observe(report)
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


class WorkerTraces:
    """Creates spans for each request in a batch: its wait in the queue, the batch, and sending its results.

    A batch belongs to many traces. Each trace gets its own span of the batch, linked to the other traces.
    """

    def __init__(self, provider: TracerProvider, revision: str) -> None:
        self._tracer = provider.get_tracer("millrace")
        self._revision = revision

    def observe(self, report: BatchReport) -> None:
        """Creates the spans of a batch whose results have been sent."""
        traced: dict[str, list[int]] = {}
        for index, entry in enumerate(report.entries):
            if entry.trace:
                traced.setdefault(entry.trace, []).append(index)
        if not traced:
            return
        ended = _wall_ns(report.ended_at)
        parents = {trace: parent_of(trace) for trace in traced}
        for trace, indices in traced.items():
            others = [parents[other] for other in parents if other != trace][:MAX_LINKS]
            self._batch(report, indices, parents[trace], others, ended)

    def _batch(
        self,
        report: BatchReport,
        indices: Sequence[int],
        parent: Context,
        others: Sequence[Context],
        ended: int,
    ) -> None:
        from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context

        began = ended - int(report.model_s * 1e9)
        waited = int(max(report.queue_s[index] for index in indices) * 1e9)
        first = report.entries[indices[0]]
        attributes = {"millrace.texts": len(indices), "millrace.lane": first.lane}
        wait = self._tracer.start_span("queue wait", parent, attributes=attributes, start_time=began - waited)
        wait.end(began)
        batch_attributes: dict[str, str | int | float | bool] = {
            "millrace.batch": report.number,
            "millrace.texts": len(indices),
            "millrace.size": report.size,
            "millrace.tokens": report.tokens,
            "millrace.computed_tokens": report.computed_tokens,
            "millrace.reason": report.reason,
            "millrace.revision": self._revision,
            "millrace.tokenize_ms": round(report.tokenize_s * 1000, 3),
            "millrace.attempts": max(report.entries[index].attempts for index in indices),
        }
        links = [Link(get_current_span(other).get_span_context()) for other in others]
        span = self._tracer.start_span(
            "batch", parent, SpanKind.CONSUMER, batch_attributes, links, start_time=began
        )
        span.end(ended)
        if report.sent_at:
            complete = self._tracer.start_span(
                "complete", set_span_in_context(span, parent), start_time=ended
            )
            complete.end(_wall_ns(report.sent_at))


def _wall_ns(at: float) -> int:
    """A moment of the monotonic clock, in nanoseconds since the epoch."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
