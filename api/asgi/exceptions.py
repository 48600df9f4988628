"""Turns the exceptions of routes into responses of one format: `{"detail", "code", "request_id"}`."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from api.asgi.http import headers_of, route_path
from api.errors import Problem, internal, let_go, problem_of
from batcher.errors import MillraceError

# The methods that routes may use.
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# An answer names no more: 64 KB of unknown fields are 6,000.
MAX_MISTAKES = 10
NO_ROUTE = "no such route"
# Less similar paths are others, and not mistyped: /pooling is not /ping.
SIMILAR = 0.8


async def answer_error(request: Request, error: Exception) -> Response:
    problem = problem_for(error)
    if problem.status == 405:
        allowed = _allowed(request.scope)
        detail = f"this route takes {allowed.decode('ascii')}; /docs shows how"
        problem = Problem(405, detail, headers=[(b"allow", allowed)])
    elif isinstance(error, HTTPException) and problem.status == 404:
        problem = _no_route(request.scope)
    headers = headers_of(request)
    problem.fields |= request.scope["state"]["error_fields"](route_path(request.scope), problem)
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in problem.headers}
    return Response(problem.body(headers.id), problem.status, named, "application/json")


def _allowed(scope: Scope) -> bytes:
    """The methods of all routes with this path. Starlette would list only those of the first one."""

    def has(method: str) -> bool:
        asked = {**scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(asked)[0] is Match.FULL for route in scope["app"].routes)

    return ", ".join(filter(has, METHODS)).encode("ascii")


def _no_route(scope: Scope) -> Problem:
    """Suggests the route that the client may have meant: one with a similar name, or the same last part.

    Clients of moderations take 404 for a service without them, and send the text to OpenAI instead: a wrong
    base URL must not.
    """
    path = route_path(scope).lower().rstrip("/")
    if path.endswith("/moderations"):
        detail = "no such route; it is /v1/moderations, if MILLRACE_COMPAT has openai"
        error = {"message": detail, "type": "invalid_request_error", "param": None, "code": "not_found"}
        return Problem(400, detail, code="not_found", error=error)
    shown = [route for route in scope["app"].routes if isinstance(route, Route) and route.include_in_schema]
    paths = {"/docs", *(route.path for route in shown)}
    known = sorted(one for one in paths if "{" not in one)
    last = f"/{path.rpartition('/')[2]}"
    # Services whose clients ask for models elsewhere list them in another form.
    same = [one for one in (path, last) if one in known and one != "/models"]
    first = f"/{path.split('/')[1]}/" if path.count("/") > 1 else "/"
    near = [one for one in known if one.startswith(first)]
    close = same or difflib.get_close_matches(path, near, 1, SIMILAR)
    hint = f"did you mean {close[0]}? " if close else ""
    return Problem(404, f"{NO_ROUTE}; {hint}/docs lists all routes")


def is_no_route(problem: Problem) -> bool:
    """Whether an error says that there is no route of a path."""
    return problem.status == 404 and str(problem.detail).startswith(NO_ROUTE)


def problem_for(error: Exception) -> Problem:
    let_go(error)
    if isinstance(error, Problem):
        return error
    if isinstance(error, MillraceError):
        return problem_of(error)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (error.headers or {}).items()
        ]
        return Problem(error.status_code, str(error.detail), headers=headers)
    return internal()


def _invalid(error: RequestValidationError) -> Problem:
    for detail in error.errors():
        if isinstance(cause := detail.get("ctx", {}).get("error"), Exception):
            let_go(cause)
    # FastAPI leaves a body as bytes unless its type is JSON: a form on another site must not act.
    if isinstance(error.body, bytes):
        detail = "the body must be application/json: send the header Content-Type: application/json"
        return Problem(415, detail, headers=((b"accept", b"application/json"),))
    first = error.errors()[:MAX_MISTAKES]
    return Problem(422, [{key: one[key] for key in ("type", "loc", "msg")} for one in first])


EXCEPTION_HANDLERS: dict[Any, Any] = dict.fromkeys(
    (Problem, MillraceError, HTTPException, RequestValidationError), answer_error
)
