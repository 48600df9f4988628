"""Sends error responses, and delays closing connections while a body arrives."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from api.asgi.http import CLOSE, JSON, next_part, send_answer, with_defaults
from api.errors import Header, Problem, ResponseCut, internal, let_go, not_started, problem_of
from api.lifecycle import Lifecycle
from batcher.errors import MillraceError

log = logging.getLogger(__name__)

# How long, and for how many bytes, to go on reading a refused body before the connection closes.
LINGER_S = 2.0
LINGER_BYTES = 16 * 1024**2


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


class LingeringClose:
    """A `send` that delays the end of an error response that closes the connection (lingering close).

    If the connection closed while the client is still sending its body, the reset could destroy the response
    before the client reads it. A 408 does not need this, because its client has stopped sending.
    """

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        self._receive = receive
        self._closing = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            self._closing = status >= 400 and status != 408 and CLOSE in message["headers"]
        if not self._closing or message["type"] == "http.response.start" or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        left = LINGER_BYTES
        more = True
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_S):
                while more and left > 0:
                    size, more = await self._discard_part()
                    left -= size
        await self._send({"type": "http.response.body", "body": b""})

    async def _discard_part(self) -> tuple[int, bool]:
        part, more = await next_part(self._receive)
        return len(part), more
