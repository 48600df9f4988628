"""What errors are answered with."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Send

from api.asgi.http import JSON, send_answer, with_defaults
from api.errors import Header, Problem, ResponseCut, internal, let_go, not_started, problem_of
from api.lifecycle import Lifecycle
from batcher.errors import MillraceError

log = logging.getLogger(__name__)


def reported(error: BaseException, request_id: str, lifecycle: Lifecycle | None = None) -> Problem:
    """The problem that an error is answered with. Logs an unexpected one, and lets go of what they refer to.

    Raises the error if the server has cancelled the request, unless because the process is draining.
    """
    if isinstance(error, asyncio.CancelledError) and (lifecycle is None or not lifecycle.draining):
        raise error
    try:
        return _reported(error, request_id, lifecycle)
    finally:
        let_go(error)


def _reported(error: BaseException, request_id: str, lifecycle: Lifecycle | None) -> Problem:
    problem = problem_of(error) if isinstance(error, MillraceError) else error
    if isinstance(problem, Problem):
        unstarted = lifecycle is not None and not lifecycle.started and problem.status >= 500
        return not_started() if unstarted else problem
    if isinstance(error, asyncio.CancelledError):
        return Problem(503, "this process is stopping; try again shortly", code="draining", retry_after_s=1.0)
    if isinstance(error, ResponseCut):
        log.warning("%s", error, extra={"action": "response.cut", "request_id": request_id})
        return internal()
    fields = {"action": "request.crashed", "request_id": request_id}
    log.error("unexpected error", exc_info=error, extra=fields)
    return internal()


async def send_problem(send: Send, problem: Problem, request_id: bytes) -> None:
    headers, body = problem_parts(problem, request_id)
    await send_answer(send, problem.status, headers, body)


def problem_parts(problem: Problem, request_id: bytes) -> tuple[list[Header], bytes]:
    """The headers of a problem, except for Content-Length, and its body."""
    headers = with_defaults((JSON, *problem.headers), request_id)
    return headers, problem.body(request_id.decode("ascii"))
