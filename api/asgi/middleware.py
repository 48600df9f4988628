"""The outermost layer: what every request passes, whatever answers it.

Two routes are answered before the framework sees them (`direct`): the one that carries the load and the one
that load balancers ask. They are declared in FastAPI too, for OpenAPI, and lead to the same handlers. All
other routes get their request id, API key check, headers, error shape, metrics and log line here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from api.asgi.wire import (
    NOSNIFF,
    PROBES,
    LingeringClose,
    Message,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    send_problem,
)
from api.auth import OPEN_PATHS, OPEN_PREFIX
from api.errors import Header, Problem, internal, problem_of
from api.keys import Keys, key_name
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.openapi import described
from api.predict.handler import PredictHandler
from batcher.errors import MillraceError

log = logging.getLogger(__name__)

Direct = Callable[[Scope, Receive, Send], Awaitable[None]]

# Unless the route sets its own.
DEFAULT_HEADERS: list[Header] = [
    NOSNIFF,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
# Probes and scrapes come every few seconds: their lines are for debugging only, unless they fail; /readyz
# fails in the ordinary course of things, whenever a process starts or drains.
QUIET_ROUTES = PROBES | {"/", "/static/{name:path}"}


# Those that a route may have.
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class ASGIResponse(Response):
    """A framework route's way to an ASGI application that answers for itself."""

    def __init__(self, app: Direct) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class Edge(FastAPI):
    """The FastAPI application inside its outermost layer. `direct` is keyed by (method, path).

    Whoever adds routes does so with `include_router`; whoever makes jobs of requests sets `predict.deferral`.
    """

    def __init__(
        self, predict: PredictHandler, metrics: Metrics, keys: Keys, phase: Lifecycle, **options: Any
    ) -> None:
        # What Host says is anybody's word: nobody is sent there for a slash too many.
        super().__init__(redirect_slashes=False, **options)
        self.predict = predict
        self.phase = phase
        self.direct: dict[tuple[str, str], Direct] = {}
        self._metrics = metrics
        self._keys = keys
        for kind in (Problem, MillraceError, HTTPException, RequestValidationError, Exception):
            self.add_exception_handler(kind, _answer_error)

    def openapi(self) -> dict[str, Any]:
        """What the framework knows of the routes, and what it cannot see."""
        if not self.openapi_schema:
            self.openapi_schema = described(super().openapi())
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = _route_path(scope)
        if scope["method"] == "HEAD" and path in PROBES:
            scope = {**scope, "method": "GET"}
        direct = self.direct.get((scope["method"], path))
        if direct is not None:
            await direct(scope, receive, send)
        else:
            await self._through(path, scope, receive, send)

    async def _through(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        head = RequestHeaders(scope)
        scope.setdefault("state", {})["head"] = head
        stamp = DefaultHeaders(head.request_id, LingeringClose(send, receive))
        try:
            if path not in PROBES:
                self.predict.origins.check_host(head)
            if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
                self.predict.origins.check_origin(head)
                head.client_name = key_name(self.predict.rate.admit(self._keys, head))
            await super().__call__(scope, receive, stamp)
        except Problem as problem:
            await send_problem(stamp, problem, head.request_id)
        except Exception as error:
            # The framework has answered 500 already, or cannot any more.
            log.error(
                "unexpected", exc_info=error, extra={"action": "request.crashed", "request_id": head.id}
            )
            if not stamp.status:
                await send_problem(stamp, internal(), head.request_id)
        finally:
            self._record(scope, head, stamp.status or 499, perf_counter() - started)

    def _record(self, scope: Scope, head: RequestHeaders, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.request(route, status, seconds)
        if head.client_name:
            self._metrics.client(head.client_name, status)
        quiet = route == "/readyz" or (route in QUIET_ROUTES and status < 400)
        level = logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level):
            fields = {"action": "request", "request_id": head.id, "method": scope["method"]}
            fields |= {"route": route, "status": status, "ms": round(seconds * 1e3, 3)}
            if head.client_name:
                fields["client"] = head.client_name
            log.log(level, "request", extra=fields)


class DefaultHeaders:
    """A `send` that adds what each answer must have, and remembers its status."""

    def __init__(self, request_id: bytes, send: Send) -> None:
        self.status = 0
        self._request_id = request_id
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Header] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            defaults = [(b"x-request-id", self._request_id), *DEFAULT_HEADERS]
            headers += [header for header in defaults if header[0] not in names]
            message = {**message, "headers": headers}
        await self._send(message)


def _route_path(scope: Scope) -> str:
    """The path as routes have it, without the one that a server has put the application under."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    return below if below.startswith("/") else path


async def _answer_error(request: Request, error: Exception) -> Response:
    """Every exception of a route as `{"detail", "code", "request_id"}`."""
    problem = _problem(error)
    if problem.status == 405:
        problem.headers = [(b"allow", _allowed(request.scope))]
    head: RequestHeaders = request.scope["state"]["head"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in problem.headers}
    return Response(problem.body(head.id), problem.status, headers, "application/json")


def _allowed(scope: Scope) -> bytes:
    """The methods of all routes of this path; the framework says those of the first."""
    probe = _route_path(scope) in PROBES

    def has(method: str) -> bool:
        asked = {**scope, "method": "GET" if probe and method == "HEAD" else method}
        return any(route.matches(asked)[0] is Match.FULL for route in scope["app"].routes)

    return ", ".join(filter(has, METHODS)).encode("ascii")


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, MillraceError):
        return problem_of(error)
    if isinstance(error, RequestValidationError):
        details = [{key: detail[key] for key in ("type", "loc", "msg")} for detail in error.errors()]
        return Problem(422, details)
    if isinstance(error, HTTPException):
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (error.headers or {}).items()
        ]
        return Problem(error.status_code, str(error.detail), headers=headers)
    return internal()
