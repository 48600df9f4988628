"""Sends whole responses in one write. Uvicorn sends head and body apart, and looks through the head twice."""

from __future__ import annotations

import re
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from api.errors import Header

# A larger body is not worth a copy.
SMALL_BYTES = 64 * 1024
# Headers with lower-case names and no control characters. Uvicorn deals with all others.
_sound = re.compile(rb"(?:[a-z0-9-]+: [\t -~\x80-\xff]*\r\n)+").fullmatch
# Names of headers that decide how the response ends.
_ENDING = frozenset((b"connection", b"content-length", b"transfer-encoding"))


class Sender:
    """An application whose responses go through `cycle`, uvicorn's part for one request.

    A head that says how long the body is waits for it. If this is all of the body, both are written together;
    otherwise uvicorn sends them.
    """

    __slots__ = ("_app", "_cycle", "_head")

    def __init__(self, app: Any, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle
        self._head: Message | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application with `send` below instead."""
        await self._app(scope, receive, self.send)

    async def send(self, message: Message) -> None:
        """As `RequestResponseCycle.send`."""
        head, self._head = self._head, None
        if head is None:
            if message["type"] == "http.response.start" and not self._cycle.response_started:
                headers = message.get("headers")
                if headers and headers[-1][0] == b"content-length":
                    self._head = message
                    return
        elif not self._together(head["status"], head["headers"], message):
            await self._cycle.send(head)  # type: ignore[arg-type]
        else:
            return
        await self._cycle.send(message)  # type: ignore[arg-type]

    def _together(self, status: int, headers: list[Header], message: Message) -> bool:
        """Sends a response if it is whole, and nothing about it is special."""
        cycle = self._cycle
        body = message.get("body", b"")
        if (
            message["type"] != "http.response.body"
            or message.get("more_body")
            or headers[-1][1] != b"%d" % len(body)
            or len(body) > SMALL_BYTES
            or status in (204, 304)
            or cycle.scope["method"] == "HEAD"
            or not cycle.keep_alive
            or cycle.access_log
            or cycle.disconnected
            or cycle.flow.write_paused
        ):
            return False
        lines: list[bytes] = []
        for name, value in (*cycle.default_headers, *headers[:-1]):
            if name in _ENDING:
                return False
            lines += (name, b": ", value, b"\r\n")
        fields = b"".join(lines)
        if not _sound(fields) or 4 * fields.count(b"\n") != len(lines):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"%b%b%b: %b\r\n\r\n%b" % (STATUS_LINE[status], fields, *headers[-1], body))
        cycle.message_event.set()
        cycle.on_response()
        return True
