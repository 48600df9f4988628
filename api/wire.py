"""What a request says in its head, how its body is read, and how an answer leaves: bytes in, bytes out.

Both roads use it: POST /predict, which no framework touches, and the wrapper around all other routes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from random import getrandbits
from typing import Any

from api.errors import Header, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON: Header = (b"content-type", b"application/json")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
CLOSE: Header = (b"connection", b"close")

# How long, and how much, of what still arrives of a refused body is thrown away.
LINGER_S = 2.0
LINGER_BYTES = 16 * 1024**2
# Unfinished bodies held at once, counted as so many of the largest.
LARGEST_BODIES = 32

_WANTED = frozenset(
    (
        b"x-request-id",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"prefer",
        b"authorization",
        b"x-api-key",
        b"traceparent",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
    )
)
_sane_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
# The form type is what `curl -d` sends when nobody states a type.
_json_type = re.compile(
    rb"application/(?:json|[a-z0-9.+-]+\+json|x-www-form-urlencoded)[ \t]*(?:;.*)?", re.IGNORECASE
).fullmatch
_sane_trace = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
# One preference: token, perhaps =value (a token or a quoted string); parameters after ; are ignored.
_preference = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:=[ \t]*\"?([^\",;]*)\"?)?[ \t]*(?:;.*)?"
).fullmatch
_seconds = re.compile(rb"\d{1,9}(?:\.\d{1,6})?").fullmatch


@dataclass(frozen=True, slots=True)
class Preference:
    """What `Prefer` asks for: seconds to wait, and whether the answer may be a job (RFC 7240)."""

    wait_s: float | None = None
    respond_async: bool = False


NO_PREFERENCE = Preference()


def new_request_id() -> bytes:
    """For a request that brought none."""
    return b"%032x" % getrandbits(128)


class Head:
    """The head of one request. `found` holds the few headers that matter, by lower-case name."""

    __slots__ = ("client_name", "found", "request_id", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        # Of the API key, once it has been checked.
        self.client_name = ""
        self.found: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in _WANTED}
        said = self.found.get(b"x-request-id")
        self.request_id = said if said is not None and _sane_id(said) else new_request_id()

    @property
    def id(self) -> str:
        return self.request_id.decode("ascii")

    @property
    def trace(self) -> str:
        """The W3C traceparent, or nothing where it is malformed."""
        said = self.found.get(b"traceparent", b"")
        return said.decode("ascii") if _sane_trace(said) else ""

    @property
    def preference(self) -> Preference:
        if b"prefer" not in self.found:
            return NO_PREFERENCE
        return parse_prefer(value for name, value in self.scope["headers"] if name == b"prefer")

    @property
    def client(self) -> str:
        """The address of the other side: what limits count by where there is no key."""
        address = self.scope.get("client")
        return str(address[0]) if address else ""


def parse_prefer(lines: Iterable[bytes]) -> Preference:
    """Malformed and unknown preferences are ignored, and the first of its name counts, as RFC 7240 has it."""
    wait_s: float | None = None
    respond_async = False
    for part in b",".join(lines).split(b","):
        match = _preference(part)
        name, value = (match[1].lower(), match[2] or b"") if match else (b"", b"")
        if name == b"wait" and wait_s is None and _seconds(value):
            wait_s = float(value)
        elif name == b"respond-async":
            respond_async = True
    return Preference(wait_s, respond_async)


def check_length(head: Head, limit: int) -> None:
    """Refuses by Content-Length what would be refused while reading, before any of it is read."""
    said = head.found.get(b"content-length")
    if said is not None and said.isdigit() and int(said) > limit:
        raise too_large(limit)


def is_json(content_type: bytes) -> bool:
    """JSON, no type at all (load scripts send none), or what curl sends unasked."""
    said = content_type.strip()
    return not said or said == b"application/json" or _json_type(said) is not None


def check_encoding(head: Head) -> None:
    """A body is read as it is. 415 for one that says that it is compressed."""
    said = head.found.get(b"content-encoding")
    if said is not None and said.strip().lower() not in (b"", b"identity"):
        detail = "the body must be sent as it is, without Content-Encoding"
        raise Problem(415, detail, headers=(CLOSE, (b"accept-encoding", b"identity")))


def check_json(head: Head) -> None:
    """Anything else than JSON is 415."""
    if not is_json(head.found.get(b"content-type", b"")):
        raise Problem(
            415, "the body must be application/json", headers=(CLOSE, (b"accept", b"application/json"))
        )


class BodyReader:
    """Reads bodies up to `limit` bytes within `timeout_s`; what is unfinished of all of them has a bound."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self._timeout_s = timeout_s
        self._room = LARGEST_BODIES * limit

    async def read(self, receive: Receive) -> bytes:
        """The whole body. 413 as soon as it is too large, 408 when it does not end; raises Gone.

        503 where the unfinished bodies of others leave no room. A body that comes in one part needs none.
        """
        body, more = await _next_part(receive)
        if more:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._rest(receive, body)
            except TimeoutError:
                raise Problem(408, "the body did not arrive in time", headers=(CLOSE,)) from None
        if len(body) > self.limit:
            raise too_large(self.limit)
        return body

    async def _rest(self, receive: Receive, first: bytes) -> bytes:
        body, more = bytearray(first), True
        self._room -= len(body)
        try:
            while more and len(body) <= self.limit:
                if self._room < 0:
                    detail = "too many unfinished bodies are held already"
                    raise Problem(503, detail, code="too_many_bodies", headers=(CLOSE,))
                part, more = await _next_part(receive)
                body += part
                self._room -= len(part)
            return bytes(body)
        finally:
            self._room += len(body)
            body.clear()  # an error would keep it for as long as it is told


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message.get("body", b""), message.get("more_body", False)


def too_large(limit: int) -> Problem:
    """413, and the connection closes: what is left of the body is not read."""
    return Problem(413, f"the body is larger than {limit} bytes", headers=(CLOSE,))


class Gone(Exception):
    """The client has left: there is nobody to answer."""


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


class Lingering:
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
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(LINGER_S):
                while more and left > 0:
                    size, more = await self._thrown_away()
                    left -= size
        await self._send({"type": "http.response.body", "body": b""})

    async def _thrown_away(self) -> tuple[int, bool]:
        part, more = await _next_part(self._receive)
        return len(part), more
