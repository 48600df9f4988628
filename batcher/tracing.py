"""Traces: one request from the API through the queue into its batch. OpenTelemetry, off unless switched on.

Contexts travel as W3C traceparent strings: in the header of a request, in the entry through Redis, in the
record of a job. Where tracing is off, no SDK is imported and no span made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

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


def provider() -> TracerProvider | None:
    """What makes spans; None where tracing is off."""
    return _provider


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
