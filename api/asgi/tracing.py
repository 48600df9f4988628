"""Creates a span for each request, which starts a trace or continues the client's.

The span replaces the traceparent of the request, so entries in the queue and jobs become its children.
Without this wrapper, the application passes on the client's traceparent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.asgi.http import QUIET_ROUTES
from batcher import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACEPARENT = b"traceparent"
# Response headers that are recorded as attributes of the span.
_ATTRIBUTES = {
    b"x-cache": "millrace.cache",
    b"x-model": "millrace.model",
    b"x-request-id": "millrace.request_id",
    b"server-timing": "millrace.timing",
}


class Traced:
    """An ASGI application that wraps another one in spans."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer("millrace")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in QUIET_ROUTES and scope["method"] != "POST"):
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, use_span

        given = next((value for name, value in scope["headers"] if name == TRACEPARENT), b"")
        parent = tracing.parent_of(given.decode("ascii", "replace"))
        span = self._tracer.start_span(scope["method"], parent, SpanKind.SERVER)
        headers = [header for header in scope["headers"] if header[0] != TRACEPARENT]
        headers.append((TRACEPARENT, tracing.traceparent(span).encode()))
        inner = {**scope, "headers": headers}

        async def send_and_describe(message: Message) -> None:
            if message["type"] == "http.response.start":
                _describe(span, message)
            await send(message)

        with use_span(span, end_on_exit=True):
            await self._app(inner, receive, send_and_describe)
            route = getattr(inner.get("route"), "path", scope["path"] if scope["path"] == "/predict" else "")
            span.update_name(f"{scope['method']} {route}".rstrip())
            span.set_attributes({"http.request.method": scope["method"], "http.route": route})


def _describe(span: Span, start: Message) -> None:
    from opentelemetry.trace import StatusCode

    status = start["status"]
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    for name, value in start.get("headers", ()):
        if name in _ATTRIBUTES:
            span.set_attribute(_ATTRIBUTES[name], value.decode("latin-1"))
