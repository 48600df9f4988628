"""Dialects: their routes, and the form of their errors. Serves the routes before the framework does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api.asgi.http import CLOSE, JSON, Answer, RequestHeaders, route_path, send_answer, with_defaults
from api.asgi.ignored import MODEL_NAMES, ignored_header, ignored_in_query, plain
from api.compat.fields import places
from api.compat.reading import sentence
from api.compat.service import HOW_TO_NAME, Call, DialectService
from api.errors import Header, Problem
from api.predict.request import RequestContext
from batcher.models import ROUTES

# The content type of an answer that is not JSON.
BINARY: Header = (b"content-type", b"application/octet-stream")
# For dialects in which an invalid request gets 400.
BAD_REQUEST = {422: 400}
# Parameters of other routes.
NOT_READ = {
    **dict.fromkeys(MODEL_NAMES, HOW_TO_NAME),
    "order": "answers have the order of the service whose form they have",
}


class _ModelName(StringConvertor):
    """The name of a model: org/name, or without a slash. A colon begins what follows it (`:predict`).

    What ends as a route below a model does is none.
    """

    regex = rf"[^/:\n]+(?:/(?!(?:{ROUTES})$)[^/:\n]+)?(?!\n)"


register_url_convertor("model", _ModelName())


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a dialect. `path` is as the framework has it, with at most {model} and {version} in it.

    `body` and `answer` describe the request and the response; a route without a body is a GET. One without an
    answer only says why there is none. A `binary` answer may also be bytes. An `open` route needs no API key.
    With `beside_page`, requests that accept HTML get the page of this path instead.
    """

    path: str
    handle: Callable[[Call], Awaitable[Answer]]
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    binary: bool = False
    open: bool = False
    beside_page: bool = False

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


class ErrorText(BaseModel):
    error: str


class Alive(BaseModel):
    status: Literal["alive"]


class Dialect:
    """Translates the requests and answers of one kind of service.

    `error` is the form of its errors, and `statuses` has the statuses that differ from those of /predict;
    `more_statuses` are those of requests beside them, with what they mean.
    """

    error: ClassVar[type[BaseModel]] = ErrorText
    statuses: ClassVar[Mapping[int, int]] = {}
    more_statuses: ClassVar[Mapping[int, str]] = {}

    def __init__(self, service: DialectService) -> None:
        self.service = service

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    async def ready(self, call: Call) -> Answer:
        """Answers probes: 200 only if a request sent now would be answered."""
        self.service.check_ready(call)
        return json_answer({"status": "alive"})

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        """The problem in the form of the dialect: in most of them, one sentence."""
        return self.error(error=sentence(problem))

    def status_of(self, problem: Problem) -> int:
        """The status of the dialect for a problem."""
        return self.statuses.get(problem.status, problem.status)

    def refuse(self, problem: Problem) -> Answer:
        """The response for a problem: its sentence, in the form and with the status of the dialect."""
        status = self.status_of(problem)
        body = self.error_body(problem, status).model_dump_json().encode()
        return Answer(status, [*problem.headers], body)


def json_answer(value: Any, headers: Iterable[Header] = ()) -> Answer:
    """A 200 with `value` as JSON. Iterators become lists, and are never held whole."""
    return Answer(200, [*headers], to_json(value))


def _in_body(body: type[BaseModel]) -> dict[str, str]:
    """Of each field of a request, at its first place, what to do where it stands in a query."""
    first = dict(reversed([*places(body)]))
    return {plain(name): f"send it in the body, as {place}" for name, place in first.items()}


class Endpoint:
    """An ASGI application that answers one route. `path` is its name in metrics and traces."""

    def __init__(self, route: Route, dialect: Dialect) -> None:
        self.path = route.path
        self.route = route
        self.dialect = dialect
        self._service = dialect.service
        # Parameters of a query that would change the answer if they were read, and where they belong.
        self._not_read = {} if route.open else NOT_READ | (_in_body(route.body) if route.body else {})

    @property
    def pattern(self) -> str:
        """The path in which {model} may be the name of a model with a slash."""
        return self.path.replace("{model}", "{model:model}")

    def leaves_to_page(self, scope: Scope) -> bool:
        """Whether the request gets the page at this path."""
        return self.route.beside_page and any(
            name == b"accept" and b"text/html" in value for name, value in scope["headers"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        call = Call(
            RequestContext(RequestHeaders(scope)), receive, scope.get("path_params", {}).get("model", "")
        )
        call.context.hit = self.route.open  # the log lines of probes are as quiet as those of cached texts
        try:
            await self._respond(call, send)
        finally:
            self._service.predictor.release(call.context)

    async def _respond(self, call: Call, send: Send) -> None:
        try:
            answer = await self.answer(call)
        except ClientDisconnect:
            call.context.code = "client_gone"
            self._service.predictor.request_log.add(call.context, self.path, 499)
            return
        headers = with_defaults(answer.headers, call.context.headers.request_id)
        if BINARY not in headers:
            headers.append(JSON)
        if self._service.lifecycle.draining:
            headers.append(CLOSE)
        await send_answer(send, answer.status, headers, answer.body)
        self._service.predictor.request_log.add(call.context, self.path, answer.status)

    async def answer(self, call: Call) -> Answer:
        """The response, errors included. May raise ClientDisconnect."""
        try:
            if self.route.open:
                self._service.auth.origins.check_host(call.context.headers)
            elif self.route.body is None:
                call.context.client = self._service.auth.admit(call.context.headers)
            elif call.body is None:
                call.context.client = self._service.predictor.admit(call.context.headers)
            if call.model:
                self._service.choose_by_path(call, call.model)
            if query := call.context.headers.scope.get("query_string"):
                call.ignored += ignored_in_query(query, refused=self._not_read)
            answer = await self.route.handle(call)
            if (ignored := ignored_header(call.ignored)) is not None:
                answer.headers.append(ignored)
            return answer
        except ClientDisconnect:
            raise
        except (Exception, asyncio.CancelledError) as error:
            problem = call.context.fail(error, self._service.lifecycle)
            refusal = self.dialect.refuse(problem)
            if not self.route.beside_page:
                return refusal
            problem.fields |= json.loads(refusal.body)  # the path is ours, too
            return Answer(refusal.status, refusal.headers, problem.body(call.context.headers.id))


class CompatMiddleware:
    """Answers the routes of dialects before the framework's routing, and passes other requests to `app`.

    `aliases` are applications by method and path. HEAD is answered as GET; the server omits the body.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Iterable[Endpoint], aliases: Mapping[tuple[str, str], ASGIApp]
    ) -> None:
        self._app = app
        self._exact: dict[tuple[str, str], ASGIApp] = {**aliases}
        self._patterns: list[tuple[str, re.Pattern[str], Endpoint]] = []
        for endpoint in endpoints:
            method = endpoint.route.method
            if "{" in endpoint.path:
                pattern = re.compile(compile_path(endpoint.pattern)[0].pattern, re.DOTALL)
                self._patterns.append((method, pattern, endpoint))
            else:
                # Probes of several dialects say the same. Of other routes, that of the last dialect counts.
                probe = endpoint.route.open and (method, endpoint.path) in self._exact
                self._exact |= {} if probe else {(method, endpoint.path): endpoint}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            method = scope["method"]
            path = route_path(scope)
            path = path.rstrip("/") or "/"
            method = "GET" if method == "HEAD" else method
            found = self._exact.get((method, path)) or self._match(method, path, scope)
            if found is not None and not (isinstance(found, Endpoint) and found.leaves_to_page(scope)):
                app = found
            elif path != "/" and scope["path"].endswith("/") and self.dialect_of(path):  # another method
                scope["path"] = scope["path"].rstrip("/")
        await app(scope, receive, send)

    def dialect_of(self, path: str) -> Dialect | None:
        """The dialect that has a route of this path, whatever its method."""
        path = path.rstrip("/") or "/"
        exact = (app for (_, one), app in self._exact.items() if one == path and isinstance(app, Endpoint))
        matching = (endpoint for _, pattern, endpoint in self._patterns if pattern.match(path))
        found = next(chain(exact, matching), None)
        return found.dialect if found else None

    def _match(self, method: str, path: str, scope: Scope) -> Endpoint | None:
        for wanted, pattern, endpoint in self._patterns:
            if wanted == method and (match := pattern.match(path)):
                scope["path_params"] = match.groupdict()
                return endpoint
        return None
