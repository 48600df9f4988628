"""Connections: turns the bytes of a request into a call of the application.

Uvicorn's protocol does this, with the limits of `api.server.limits`. This module adds checks of heads and
counts of bytes, and writes head and body of a response at once, where uvicorn writes them apart. While the
process drains, every response closes its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NoReturn

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from api.asgi.http import LEFT, PROBES
from api.errors import Problem
from api.server.limits import HEAD_BYTES, LimitedProtocol, end_by_reset

# The most bytes of one header, the most headers, and the most bytes of the target (path and query).
HEADER_BYTES = 8 * 1024
HEADERS = 100
TARGET_BYTES = 8 * 1024

Headers = list[tuple[bytes, bytes]]


def too_many_headers() -> Problem:
    return Problem(431, f"more than {HEADERS} headers", code="too_many_headers")


def too_large_part(target: bytes, headers: Headers) -> Problem | None:
    """The problem of a head of which a single part is too large."""
    if len(target) > TARGET_BYTES:
        return Problem(414, f"path and query are longer than {TARGET_BYTES} bytes")
    if any(len(name) + len(value) > HEADER_BYTES for name, value in headers):
        return Problem(431, f"a header is larger than {HEADER_BYTES} bytes")
    return None


def with_host_of(target: bytes, headers: Headers) -> Headers:
    """The headers of a request whose target is a whole URL: its host counts, not that of the header."""
    authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].rpartition(b"@")[2]
    return [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]


def without_upgrade(
    parser: httptools.HttpRequestParser, protocol: Any
) -> tuple[httptools.HttpRequestParser, bytes]:
    """A new parser for a request whose head offers an upgrade, and that head without the offer.

    httptools takes an upgrade that is offered for one that has happened: it ends the request without its body
    and reads the body as what follows. Clients offer HTTP/2 this way (curl, Java), and a server may ignore it
    (RFC 9110, 7.8).
    """
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), protocol.url, parser.get_http_version().encode())]
    lines += [b"%b: %b" % pair for pair in protocol.headers if pair[0] != b"upgrade"]
    fresh = httptools.HttpRequestParser(protocol)
    fresh.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
    return fresh, b"\r\n".join([*lines, b"", b""])


# Each byte of a body allows this many bytes outside bodies. Chunks of one byte need five.
CHUNKED = 16
# The most requests that may be pipelined, because each one uses memory.
PIPELINED = 64
# A complete request of this size is read on the next tick of the event loop, and not counted as unread.
SMALL_BYTES = 4096

_PROBE_TARGETS = frozenset(path.encode() for path in PROBES)


# A larger body is not worth a copy.
WHOLE_BYTES = 64 * 1024
# What names and values of headers consist of. Uvicorn deals with all others.
_NAME = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_VALUE = bytes({*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)})
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

    def run(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Runs the application with `send` below instead."""
        ran: Awaitable[None] = self._app(scope, receive, self.send)
        return ran

    async def send(self, message: Message) -> None:
        """As `RequestResponseCycle.send`."""
        head, self._head = self._head, None
        if head is None and self._says_length(message):
            self._head = message
            return
        if head is not None:
            if self._together(head["status"], head["headers"], message):
                return
            await self._cycle.send(head)  # type: ignore[arg-type]
        await self._cycle.send(message)  # type: ignore[arg-type]

    def _says_length(self, message: Message) -> bool:
        """Whether this begins a response, and its last header says how long the body is."""
        if message["type"] != "http.response.start" or self._cycle.response_started:
            return False
        headers: Headers = message.get("headers") or [(b"", b"")]
        return headers[-1][0] == b"content-length"

    def _together(self, status: int, headers: Headers, message: Message) -> bool:
        """Sends a response if it is whole, and nothing about it is special."""
        cycle = self._cycle
        body = message.get("body", b"")
        if (
            message["type"] != "http.response.body"
            or message.get("more_body")
            or headers[-1][1] != b"%d" % len(body)
            or len(body) > WHOLE_BYTES
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
        ends = b"\r\n" * (len(lines) // 4)
        if b"".join(lines[::4]).translate(None, _NAME) or fields.translate(None, _VALUE) != ends:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"%b%b%b: %b\r\n\r\n%b" % (STATUS_LINE[status], fields, *headers[-1], body))
        cycle.message_event.set()
        cycle.on_response()
        return True


class OldSender(Sender):
    """A `Sender` for a client of HTTP/1.0, which knows no chunks (RFC 9112, 6.1).

    The end of a body without a length is that of the connection: a reset, unless the body is whole.
    """

    __slots__ = ("_unknown_length",)

    def __init__(self, app: Any, cycle: RequestResponseCycle) -> None:
        super().__init__(app, cycle)
        self._unknown_length = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().run(scope, receive, send)
        finally:
            if self._unknown_length and not self._cycle.response_complete:
                self._cycle.transport.abort()

    async def send(self, message: Message) -> None:
        """Tells uvicorn of each part that it is all of the body, so that it writes no chunks."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._unknown_length = True
                cycle.chunked_encoding = False
                end_by_reset(cycle.transport, True)
        elif self._unknown_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await super().send(message)
        if self._unknown_length and cycle.response_complete:
            end_by_reset(cycle.transport, False)


class Connection(LimitedProtocol):
    """Uvicorn creates one per connection, and calls its methods as bytes arrive."""

    # Bytes of the last call, and why the request that is being parsed is refused, if it is.
    _arriving = 0
    _refusal: Problem | None = None

    def data_received(self, data: bytes) -> None:
        """Limits the bytes that arrive without completing a request head or being part of a body."""
        if self._ending.lingers:
            self._ending.discard(len(data))
            return
        before = self.cycle
        self._arriving = len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        cycle = self.cycle
        if self.headers is not None and len(self.headers) > HEADERS and not self.transport.is_closing():
            self.refuse(too_many_headers())
        if cycle is not None and (cycle.more_body or self.pipeline or len(data) > SMALL_BYTES):
            self._count_unread(len(data))
        if cycle is not before:
            self._allowance = HEAD_BYTES
            return
        self._allowance -= len(data)
        if self._allowance < 0 and not self.transport.is_closing():
            self.refuse(
                Problem(431, f"the request head is larger than {HEAD_BYTES} bytes", code="head_too_large")
            )

    def _parse(self, data: bytes) -> None:
        """Hands bytes to the parser, which calls the methods below. An upgrade that is offered is ignored."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("")
            except httptools.HttpParserUpgrade as offer:
                if self._offers_upgrade:
                    self.parser, head = without_upgrade(self.parser, self)
                    data = head + data[offer.args[0] :]
                    continue
            return

    @property
    def _offers_upgrade(self) -> bool:
        """Whether the head offers an upgrade; if so, it is parsed a second time without the offer."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def on_body(self, body: bytes) -> None:
        self._allowance += CHUNKED * len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Starts a request, or queues it behind other requests of this connection."""
        if self._offers_upgrade:
            return
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many pipelined requests")
        size = HEAD_BYTES - self._allowance + self._arriving
        if size > min(TARGET_BYTES, HEADER_BYTES) and (problem := too_large_part(self.url, self.headers)):
            self._give_up(problem)
        if len(self.headers) > HEADERS:
            self._give_up(too_many_headers())
        self._read_head()
        if self._probes_only and self.url.partition(b"?")[0] not in _PROBE_TARGETS:
            self._give_up(
                Problem(503, "too many connections are busy; try again", code="too_many_connections")
            )
        super().on_headers_complete()
        self.headers = self.headers.copy()  # trailers are counted, but they are not headers of the request
        if self._last or self._probes_only or (self._lifecycle is not None and self._lifecycle.draining):
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        if not self._offers_upgrade:
            super().on_message_complete()

    def _read_head(self) -> None:
        """Applies the rules of RFC 9112 for the head that the parser leaves to its caller.

        Host must occur exactly once, the version must be 1.0 or 1.1, and chunked is the only transfer coding.
        """
        version = self.parser.get_http_version()
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        elif version != "1.1":
            self._give_up(Problem(505, "only HTTP/1.1 and HTTP/1.0 are supported", code="http_version"))
        if not self.url.startswith(b"/") and b"://" in self.url:
            self.headers = self.scope["headers"] = with_host_of(self.url, self.headers)
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                self._give_up(Problem(501, "the transfer coding must be chunked", code="transfer_coding"))
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._give_up(Problem(400, "a request must have exactly one Host header"))

    def _count_unread(self, size: int) -> None:
        """Counts bytes of requests that have not arrived completely, or that wait for earlier ones."""
        if not self._backlog.unread(self, size) and not self.transport.is_closing():
            self.refuse(
                Problem(503, "too many request bodies are arriving; try again", code="too_many_bodies")
            )

    def send_400_response(self, msg: str) -> None:
        """Answers a malformed or oversized request with an error in the service's format."""
        self.refuse(self._refusal or Problem(400, "malformed HTTP request"))

    def _give_up(self, problem: Problem) -> NoReturn:
        """Aborts the parser, so that uvicorn calls `send_400_response`."""
        self._refusal = problem
        raise ValueError(problem.code)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.scope["state"][LEFT] = self.left
        sender = OldSender if cycle.scope["http_version"] == "1.0" else Sender
        super()._start_asgi_task(cycle, sender(app, cycle).run)  # type: ignore[arg-type]
