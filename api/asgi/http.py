"""Requests and responses as ASGI messages: reads headers and bodies, and sends answers."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from random import getrandbits
from sys import getsizeof
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from api.errors import Header, Problem, invalid_body
from text_files.decoding import members, zstd_frames

# The encodings of bodies.
ENCODINGS = (b"gzip", b"deflate", b"zstd")
# White space in header values.
BLANK = b" \t"
_seconds = re.compile(rb"\d{1,9}(?:\.\d{1,6})?").fullmatch


@dataclass(frozen=True, slots=True)
class Preference:
    """Seconds to wait for the results, and whether the request may become a job."""

    wait_s: float | None = None
    respond_async: bool = False


NO_PREFERENCE = Preference()


def parse_prefer(lines: Iterable[bytes]) -> Preference:
    """Ignores malformed, unknown and repeated preferences, as RFC 7240 requires."""
    wait_s: float | None = None
    respond_async = False
    for part in b",".join(lines).split(b","):
        # Parameters after ";" are ignored. A quoted string that contains "," or ";" is split in the wrong
        # place, but neither of the known preferences has one.
        name, _, value = part.partition(b";")[0].partition(b"=")
        name = name.strip(BLANK).lower()
        value = _unquoted(value.strip(BLANK))
        if name == b"wait" and wait_s is None and _seconds(value):
            wait_s = float(value)
        elif name == b"respond-async":
            respond_async = True
    return Preference(wait_s, respond_async)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


T = TypeVar("T")

# Methods that read. HEAD is answered as GET, and the server omits the body.
READ = frozenset(("GET", "HEAD"))
CLOSE: Header = (b"connection", b"close")
# The key of a request's state whose value says whether its client has left, as `LimitedProtocol.left`.
LEFT = "left"
JSON: Header = (b"content-type", b"application/json")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
# Paths for load balancers, orchestrators and monitors.
PROBES = frozenset(("/health", "/livez", "/readyz", "/metrics"))

# Probes, scrapes, and what `millrace up` asks while a worker starts arrive every few seconds, so they are
# logged at debug level unless they fail. /readyz fails whenever a process starts or drains, so it is always
# logged at debug level.
QUIET_ROUTES = PROBES | {"/", "/console", "/static/{name:path}", "/admin/models"}

# Content types that are read as JSON. `curl -d` sends the form type by default.
JSON_TYPES = frozenset((b"", b"application/json", b"application/x-www-form-urlencoded"))
# The most digits of a Content-Length; int() raises for numbers with thousands of digits.
MAX_DIGITS = 18
# Unfinished bodies and waiting texts together may use as much memory as this many bodies of the largest size.
LARGEST_BODIES = 16
# How long work may take before it is watched whether its client is still there.
WATCH_AFTER_S = 0.1
_sane_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
_sane_trace = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def new_request_id() -> bytes:
    return b"%032x" % getrandbits(128)


class RequestHeaders:
    """The headers of one request. `by_name` holds them by lower-case name; the last of several counts."""

    __slots__ = ("by_name", "client_name", "request_id", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        # The name of the API key, set once the key has been checked.
        self.client_name = ""
        self.by_name: dict[bytes, bytes] = dict(scope["headers"])
        given = self.by_name.get(b"x-request-id")
        self.request_id = given if given is not None and _sane_id(given) else new_request_id()

    @property
    def id(self) -> str:
        return self.request_id.decode("ascii")

    def left(self) -> bool:
        """Whether the client has left, also if parts of its body before that have not been received."""
        found: Callable[[], bool] = self.scope.get("state", {}).get(LEFT, bool)
        return found()

    @property
    def trace(self) -> str:
        """The W3C traceparent; empty if it is missing or malformed."""
        given = self.by_name.get(b"traceparent")
        return given.decode("ascii") if given and _sane_trace(given) else ""

    @property
    def keyed(self) -> bool:
        """Whether it has an Idempotency-Key, so that it may repeat a request that was accepted."""
        return b"idempotency-key" in self.by_name

    @property
    def preference(self) -> Preference:
        if b"prefer" not in self.by_name:
            return NO_PREFERENCE
        return parse_prefer(value for name, value in self.scope["headers"] if name == b"prefer")


def headers_of(request: Request) -> RequestHeaders:
    """The headers of a request to a route of the framework."""
    headers: RequestHeaders = request.scope["state"]["headers"]
    return headers


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sse(name: str, data: bytes, event_id: str = "") -> bytes:
    """A server-sent event."""
    id_line = f"id: {event_id}\n" if event_id else ""
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), id_line.encode(), data)


def client_address(scope: Scope) -> str:
    """The client's IPv4 address or IPv6 network. Without API keys, limits are counted by it."""
    address = scope.get("client")
    return network_of(str(address[0])) if address else ""


@lru_cache(4096)
def network_of(address: str) -> str:
    """An IPv4 address as it is, or the /64 of an IPv6 address, which usually belongs to one client."""
    if ":" not in address:
        return address
    try:
        known = IPv6Address(address)
    except ValueError:
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return f"{IPv6Address(int(known) >> 64 << 64)}/64"


def is_json(content_type: bytes) -> bool:
    """Whether a body is read as JSON: a JSON type, no type at all (some clients), or curl's default."""
    if content_type in JSON_TYPES:
        return True
    kind = content_type.partition(b";")[0].strip(BLANK).lower()
    return kind in JSON_TYPES or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def check_encoding(headers: RequestHeaders) -> bytes:
    """The Content-Encoding of a body, empty if it has none. Raises Problem 415 for an unknown one."""
    encoding = headers.by_name.get(b"content-encoding", b"").strip().lower().removeprefix(b"x-")
    if encoding in (b"", b"identity"):
        return b""
    if encoding in ENCODINGS:
        return encoding
    accepted = b", ".join(ENCODINGS)
    detail = f"Content-Encoding must be one of {accepted.decode()}, or left out"
    raise Problem(415, detail, headers=(CLOSE, (b"accept-encoding", accepted)))


def check_json(headers: RequestHeaders) -> None:
    """Raises Problem 415 unless the content type is JSON."""
    if not is_json(headers.by_name.get(b"content-type", b"")):
        detail = "the body must be application/json: send the header Content-Type: application/json"
        raise Problem(415, detail, headers=(CLOSE, (b"accept", b"application/json")))


def check_length(headers: RequestHeaders, limit: int) -> None:
    """Rejects a body that is too large by its Content-Length, before reading any of it."""
    length = headers.by_name.get(b"content-length")
    if length is not None and length.isdigit() and (len(length) > MAX_DIGITS or int(length) > limit):
        raise too_large(limit)


def too_large(limit: int) -> Problem:
    """A 413 that closes the connection, because the rest of the body is not read."""
    return Problem(413, f"the body is larger than {limit} bytes", headers=(CLOSE,))


async def next_part(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether more follows. Raises ClientDisconnect."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


class BodyReader:
    """Reads bodies of up to `limit` bytes within `timeout_s`, and bounds the memory of all of them."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self._timeout_s = timeout_s
        self._room = LARGEST_BODIES * limit

    async def read(self, headers: RequestHeaders, receive: Receive) -> bytes:
        """Returns the whole body, decompressed.

        Raises Problem 413 as soon as it is too large, 415 for an unknown Content-Encoding, 422 if it is not
        of that encoding, 408 if it does not end in time, 503 if the unfinished bodies of other requests use
        all the memory, and ClientDisconnect. A body that arrives in one part does not count towards that
        memory.
        """
        check_length(headers, self.limit)
        encoding = check_encoding(headers)
        body, more = await next_part(receive)
        if more:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._rest(receive, body)
            except TimeoutError:
                raise Problem(408, "the body did not arrive in time", headers=(CLOSE,)) from None
        if len(body) > self.limit:
            raise too_large(self.limit)
        return self._unpacked(encoding, body) if encoding else body

    def _unpacked(self, encoding: bytes, body: bytes) -> bytes:
        content = bytearray()
        for block in unpacked(encoding, (body,)):
            content += block
            if len(content) > self.limit:
                raise too_large(self.limit)
        return bytes(content)

    def hold(self, texts: Sequence[str]) -> int:
        """Counts the memory of texts that wait for results, for `release`.

        Raises Problem 503 if it is used up.
        """
        size = sum(map(getsizeof, texts))
        if size > self._room:
            raise _no_room()
        self._room -= size
        return size

    def release(self, size: int) -> None:
        """Frees what `hold` has counted."""
        self._room += size

    async def _rest(self, receive: Receive, first: bytes) -> bytes:
        body = bytearray(first)
        more = True
        self._room -= len(body)
        try:
            while more and len(body) <= self.limit:
                if self._room < 0:
                    raise _no_room()
                part, more = await next_part(receive)
                body += part
                self._room -= len(part)
            return bytes(body)
        finally:
            self._room += len(body)
            body.clear()  # the traceback of an error refers to it until the response has been sent


def _no_room() -> Problem:
    detail = "this process holds as many request bodies and texts as it may; try again shortly"
    return Problem(503, detail, code="too_many_bodies", headers=(CLOSE,))


def check_size(size: int, most: int) -> None:
    """Raises Problem 413 if an answer would have more than `most` bytes."""
    if size > most:
        detail = (
            f"the answer would have about {size} bytes, and an answer may have {most} "
            "(MILLRACE_MAX_ANSWER_BYTES): send fewer texts per request"
        )
        raise Problem(413, detail, code="answer_too_large")


@dataclass(slots=True)
class Answer:
    """A response. `headers` does not include the headers that every response has."""

    status: int
    headers: list[Header]
    body: bytes


async def send_answer(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """Sends a response in two messages, and adds Content-Length."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def head_only(send: Send) -> Send:
    """A `send` for an application that answers HEAD as GET: it ends the response behind its head.

    The application then sees that its client has left, so that it ends streams.
    """

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return send_head


def route_path(scope: Scope) -> str:
    """The path that routes are matched against, without the prefix under which the application is mounted."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    return below if below.startswith("/") else path


def below(prefix: str, send: Send) -> Send:
    """A `send` for an application below this prefix, which Location and Link of its responses lack."""
    path = quote(prefix, safe="/%").encode()

    def moved(header: Header) -> Header:
        name, value = header
        if name == b"location" and value.startswith(b"/"):
            return name, path + value
        return (name, value.replace(b"</", b"<" + path + b"/")) if name == b"link" else header

    async def send_moved(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [moved(header) for header in message["headers"]]}
        await send(message)

    return send_moved


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """Returns what `work` returns. If the client disconnects, cancels it and raises ClientDisconnect.

    Only work that takes a while is watched: a task for each request costs more than reading the shared cache.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task(loop)
    assert task is not None
    watcher: asyncio.Task[None] | None = None
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    beginning = loop.call_later(WATCH_AFTER_S, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        beginning.cancel()
        if watcher is not None:
            watcher.cancel()


# Added to every response, unless the route sets its own value. Successful ones of /predict and /health have
# NOSNIFF only: browsers do not display them.
DEFAULT_HEADERS: tuple[Header, ...] = (
    NOSNIFF,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def with_defaults(headers: Iterable[Header], request_id: bytes) -> list[Header]:
    """The headers of a response, those that every response has included."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    defaults = ((b"x-request-id", request_id), *DEFAULT_HEADERS)
    return given + [header for header in defaults if header[0] not in names]


def unpacked(encoding: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields what blocks in one of ENCODINGS contain, up to 2 MiB at a time.

    Members of gzip and frames of zstd may follow each other. Raises Problem 422 for broken data.
    """
    try:
        yield from zstd_frames(blocks) if encoding == b"zstd" else members(blocks, _decoder, 1024)
    except EOFError:
        detail = f"the body ends before the end of its {encoding.decode()}"
        raise invalid_body("encoding", detail) from None
    except (zlib.error, ValueError):
        raise invalid_body("encoding", f"the body is not valid {encoding.decode()}") from None


def _decoder(packed: bytes) -> Any:
    """That of gzip or zlib by their first bytes, else deflate without a header, as some clients send it."""
    raw = packed[0] & 0x0F != 8 and not packed.startswith(b"\x1f")
    return zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
