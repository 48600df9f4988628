"""Traces: one request from the API through the queue into its batch. OpenTelemetry, off unless switched on.

Contexts travel as W3C traceparent strings: in the header of a request, in the entry through Redis, in the
meta data of an RQ job. Where tracing is off, no SDK is imported and no span made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from batcher.worker import BatchReport

# Of one batch span, and of passes whose results wait to be sent.
MOST_LINKS = 64
MOST_PENDING = 4096
FLUSH_MS = 3000
_provider: TracerProvider | None = None


class TracingUnavailable(Exception):
    """Tracing is switched on and cannot be had. Its message says what to do."""


def check() -> None:
    """Raises TracingUnavailable where the packages are missing."""
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            import_module(package)
        except ImportError as error:
            message = f"MILLRACE_TRACING needs {error.name}: pip install 'millrace[otel]'."
            raise TracingUnavailable(message) from None


def setup(process: str) -> TracerProvider:
    """Exports the spans of this process by OTLP, as the standard OTEL_ variables say.

    Raises TracingUnavailable.
    """
    check()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"millrace-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider)
    return provider


def use(provider: TracerProvider | None) -> None:
    """Makes spans with this provider; with None, none."""
    global _provider
    _provider = provider


def flush() -> None:
    """Sends what has not been sent: for a process that is about to end."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MS)


def current() -> str:
    """The traceparent of the span that this code runs in; nothing where there is none."""
    if _provider is None:
        return ""
    from opentelemetry import trace

    return traceparent(trace.get_current_span())


def traceparent(span: Span) -> str:
    """A span as others may name it as their parent."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(trace: str) -> Context:
    """The context that a traceparent names; an empty one for anything else."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": trace}, Context())


@contextmanager
def job_span(job_id: str, trace: str) -> Iterator[None]:
    """One attempt at a job, a child of the request that handed it in. Sent when it ends."""
    if _provider is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    tracer = _provider.get_tracer("millrace")
    attributes = {"millrace.job": job_id}
    with tracer.start_as_current_span("job", parent_of(trace), SpanKind.CONSUMER, attributes):
        yield
    flush()


class WorkerTraces:
    """The spans of a worker: for each request in a pass its queue wait, the batch, and its completion.

    A batch belongs to many traces. Each of them gets a span of it, which links to all the others.
    """

    def __init__(self, provider: TracerProvider, revision: str) -> None:
        self._tracer = provider.get_tracer("millrace")
        self._revision = revision
        self._pending: dict[str, Context] = {}

    def observe(self, report: BatchReport) -> None:
        """A pass that has just ended."""
        traced: dict[str, list[int]] = {}
        for index, entry in enumerate(report.entries):
            if entry.trace:
                traced.setdefault(entry.trace, []).append(index)
        if not traced:
            return
        ended = time.time_ns()
        began = ended - int(report.model_s * 1e9)
        parents = {trace: parent_of(trace) for trace in traced}
        for trace, indices in traced.items():
            others = [parents[other] for other in parents if other != trace][:MOST_LINKS]
            self._pass(report, indices, parents[trace], others, began, ended)

    def _pass(
        self,
        report: BatchReport,
        indices: Sequence[int],
        parent: Context,
        others: Sequence[Context],
        began: int,
        ended: int,
    ) -> None:
        from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context

        waited = int(max(report.queue_s[index] for index in indices) * 1e9)
        first = report.entries[indices[0]]
        facts = {"millrace.texts": len(indices), "millrace.lane": first.lane}
        wait = self._tracer.start_span("queue wait", parent, attributes=facts, start_time=began - waited)
        wait.end(began)
        about: dict[str, str | int | float | bool] = {
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
        span = self._tracer.start_span("batch", parent, SpanKind.CONSUMER, about, links, start_time=began)
        span.end(ended)
        if span.is_recording() or span.get_span_context().trace_flags.sampled:
            if len(self._pending) >= MOST_PENDING:
                self._pending.clear()
            self._pending[first.id] = set_span_in_context(span, parent)

    def completed(self, ids: Sequence[str], seconds: float) -> None:
        """Redis has just taken the results of `ids`, after a round trip of `seconds`."""
        if not self._pending:
            return
        ended = time.time_ns()
        for entry in ids:
            if (context := self._pending.pop(entry, None)) is not None:
                span = self._tracer.start_span("complete", context, start_time=ended - int(seconds * 1e9))
                span.end(ended)


def worker_traces(revision: str) -> WorkerTraces | None:
    """What a worker tells of its passes; None where tracing is off."""
    return None if _provider is None else WorkerTraces(_provider, revision)
