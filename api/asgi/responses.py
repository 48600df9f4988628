"""How answers leave: in two ASGI messages, errors in one shape, and slowly where a body is still arriving."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from api.asgi.body import next_part
from api.asgi.headers import CLOSE, Message, Receive, Send
from api.errors import Header, Problem

JSON: Header = (b"content-type", b"application/json")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")

# How long, and how much, of what still arrives of a refused body is thrown away.
LINGER_S = 2.0
LINGER_BYTES = 16 * 1024**2


@dataclass(slots=True)
class Answer:
    """What goes back: `headers` without the ones that every answer has."""

    status: int
    headers: list[Header]
    body: bytes


async def send_answer(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """One answer in its two messages. Content-Length is added here."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem, request_id: bytes) -> None:
    """A problem as an answer."""
    headers, body = problem_parts(problem, request_id)
    await send_answer(send, problem.status, headers, body)


def problem_parts(problem: Problem, request_id: bytes) -> tuple[list[Header], bytes]:
    """Headers, but for the length, and body of a problem."""
    headers: list[Header] = [JSON, (b"x-request-id", request_id), NOSNIFF, *problem.headers]
    return headers, problem.body(request_id.decode("ascii"))


class LingeringClose:
    """A `send` that takes its time to end an error which closes the connection.

    Who is still sending a body when the connection closes may never see why; 408 is for those who are not.
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
        left, more = LINGER_BYTES, True
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_S):
                while more and left > 0:
                    size, more = await self._thrown_away()
                    left -= size
        await self._send({"type": "http.response.body", "body": b""})

    async def _thrown_away(self) -> tuple[int, bool]:
        part, more = await next_part(self._receive)
        return len(part), more
