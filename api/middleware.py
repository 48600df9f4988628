"""Middleware for every request: request id, authentication, default headers, metrics and the log line.

GET /health bypasses the framework's routing, because load balancers call it often. POST /predict does not
come here: `api.predict.handler.PredictMiddleware` answers it first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.asgi.http import (
    QUIET_ROUTES,
    READ,
    BodyReader,
    RequestHeaders,
    head_only,
    route_path,
    with_defaults,
)
from api.asgi.problems import reported, send_problem
from api.auth import Authenticator, is_admin_path
from api.errors import Problem, let_go
from api.metrics import Metrics

log = logging.getLogger(__name__)


class ASGIResponse(Response):
    """Lets a FastAPI route hand the request to an ASGI application, which sends the response itself."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@dataclass(eq=False)
class RequestMiddleware:
    """Wraps the framework. `health` answers GET /health.

    `error_fields` are what an error of a path has besides its own fields, for the clients of other services.
    `bodies` reads those of operators' requests: FastAPI has no limit for them.
    """

    app: ASGIApp
    health: ASGIApp
    auth: Authenticator
    metrics: Metrics
    error_fields: Callable[[str, Problem], Mapping[str, object]]
    bodies: Callable[[], BodyReader]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        if path == "/health" and scope["method"] in READ:
            await self.health(scope, receive, send)
        else:
            await self._through(path, scope, receive, send)

    async def _through(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers = RequestHeaders(scope)
        scope.setdefault("state", {}).update(headers=headers, error_fields=self.error_fields)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, head_only(send)
        send = DefaultHeaders(headers.request_id, send)
        try:
            await self.auth.admit_path(path, headers)
            if is_admin_path(path):
                receive = await self._read(headers, receive)
            await self.app(scope, receive, send)
        except ClientDisconnect as error:
            let_go(error)
        except Exception as error:
            problem = reported(error, headers.id)
            if not send.status:
                problem.fields |= self.error_fields(path, problem)
                await send_problem(send, problem, headers.request_id)
        finally:
            self._record(scope, headers, send.status or 499, perf_counter() - started)
            scope["state"].pop("headers")  # which refer to the scope

    async def _read(self, headers: RequestHeaders, receive: Receive) -> Receive:
        """Reads the body, and returns a `receive` for it. Raises what `BodyReader.read` raises."""
        bodies = self.bodies()
        body = await bodies.read(headers, receive)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return again

    def _record(self, scope: Scope, headers: RequestHeaders, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.request(route, status, seconds)
        if headers.client_name:
            self.metrics.client(headers.client_name, status)
        quiet = route == "/readyz" or (route in QUIET_ROUTES and status < 400)
        level = logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level):
            fields = {"action": "request", "request_id": headers.id, "method": headers.scope["method"]}
            fields |= {"route": route, "status": status, "ms": round(seconds * 1e3, 3)}
            if headers.client_name:
                fields["client"] = headers.client_name
            log.log(level, "request", extra=fields)


class DefaultHeaders:
    """A `send` that adds the default headers to the response, and records its status."""

    def __init__(self, request_id: bytes, send: Send) -> None:
        self.status = 0
        self._request_id = request_id
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = with_defaults(message.get("headers", ()), self._request_id)
            message = {**message, "headers": headers}
        await self._send(message)
