"""OpenTelemetry traces of a request from the API through the queue into its batch. Off by default.

Contexts are passed on as W3C traceparent strings: in the request header, in the entry in Redis and in the
job's record. Without tracing, the SDK is not imported and no spans are created.
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
    """Tracing is enabled but its packages are missing. The message says how to install them."""


def check() -> None:
    """Raises TracingUnavailable if the packages are missing."""
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            import_module(package)
        except ImportError as error:
            message = f"MILLRACE_TRACING requires {error.name}. Run: pip install 'millrace-server[otel]'"
            raise TracingUnavailable(message) from None


def setup(process: str) -> TracerProvider:
    """Exports the spans of this process by OTLP, configured by the standard OTEL_ variables.

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
    """Creates spans with this provider, or none if it is None."""
    global _provider
    _provider = provider


def provider() -> TracerProvider | None:
    """The provider of spans; None if tracing is off."""
    return _provider


def flush() -> None:
    """Sends the remaining spans. Call it before the process exits."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MS)


def current() -> str:
    """The traceparent of the current span; empty if there is none."""
    if _provider is None:
        return ""
    from opentelemetry import trace

    return traceparent(trace.get_current_span())


def traceparent(span: Span) -> str:
    """The traceparent of a span, for its children."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(trace: str) -> Context:
    """The context of a traceparent; an empty one if it is invalid."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": trace}, Context())


@contextmanager
def job_span(job_id: str, trace: str) -> Iterator[None]:
    """A span for one attempt at a job, as a child of the request that created it. Sent when it ends."""
    if _provider is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    tracer = _provider.get_tracer("millrace")
    attributes = {"millrace.job": job_id}
    with tracer.start_as_current_span("job", parent_of(trace), SpanKind.CONSUMER, attributes):
        yield
    flush()
