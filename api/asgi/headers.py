"""Reads request headers: the request id, Prefer, the content type, and the address of the client."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from random import getrandbits
from typing import Any

from api.errors import Header, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSE: Header = (b"connection", b"close")
# Paths for load balancers, orchestrators and monitors. These also use HEAD, which is handled as GET; the
# server omits the body.
PROBES = frozenset(("/health", "/livez", "/readyz", "/metrics"))

# White space in header values.
BLANK = b" \t"
# Content types that are read as JSON. `curl -d` sends the form type by default.
JSON_TYPES = frozenset((b"", b"application/json", b"application/x-www-form-urlencoded"))
# The most digits of a Content-Length; int() raises for numbers with thousands of digits.
MOST_DIGITS = 18
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
_sane_trace = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_seconds = re.compile(rb"\d{1,9}(?:\.\d{1,6})?").fullmatch


@dataclass(frozen=True, slots=True)
class Preference:
    """The `Prefer` header (RFC 7240): seconds to wait, and whether the request may become a job."""

    wait_s: float | None = None
    respond_async: bool = False


NO_PREFERENCE = Preference()


def new_request_id() -> bytes:
    return b"%032x" % getrandbits(128)


class RequestHeaders:
    """The headers of one request. `found` holds the headers that the API uses, by lower-case name."""

    __slots__ = ("client_name", "found", "request_id", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        # The name of the API key, set once the key has been checked.
        self.client_name = ""
        self.found: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in _WANTED}
        given = self.found.get(b"x-request-id")
        self.request_id = given if given is not None and _sane_id(given) else new_request_id()

    @property
    def id(self) -> str:
        return self.request_id.decode("ascii")

    @property
    def trace(self) -> str:
        """The W3C traceparent; empty if it is missing or malformed."""
        given = self.found.get(b"traceparent", b"")
        return given.decode("ascii") if _sane_trace(given) else ""

    @property
    def preference(self) -> Preference:
        if b"prefer" not in self.found:
            return NO_PREFERENCE
        return parse_prefer(value for name, value in self.scope["headers"] if name == b"prefer")

    @property
    def client(self) -> str:
        """The client's IPv4 address or IPv6 network. Without API keys, limits are counted by it."""
        address = self.scope.get("client")
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


def parse_prefer(lines: Iterable[bytes]) -> Preference:
    """Ignores malformed, unknown and repeated preferences, as RFC 7240 requires."""
    wait_s: float | None = None
    respond_async = False
    for part in b",".join(lines).split(b","):
        # Parameters after ";" are ignored. A quoted string that contains "," or ";" is split in the wrong
        # place, but neither of the known preferences has one.
        name, _, value = part.partition(b";")[0].partition(b"=")
        name, value = name.strip(BLANK).lower(), _unquoted(value.strip(BLANK))
        if name == b"wait" and wait_s is None and _seconds(value):
            wait_s = float(value)
        elif name == b"respond-async":
            respond_async = True
    return Preference(wait_s, respond_async)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


def is_json(content_type: bytes) -> bool:
    """Whether a body is read as JSON: a JSON type, no type at all (some clients), or curl's default."""
    if content_type in JSON_TYPES:
        return True
    kind = content_type.partition(b";")[0].strip(BLANK).lower()
    return kind in JSON_TYPES or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def check_encoding(headers: RequestHeaders) -> None:
    """Raises Problem 415 for a compressed body: bodies are not decompressed."""
    encoding = headers.found.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        detail = "the body must not be compressed: send it without Content-Encoding"
        raise Problem(415, detail, headers=(CLOSE, (b"accept-encoding", b"identity")))


def check_json(headers: RequestHeaders) -> None:
    """Raises Problem 415 unless the content type is JSON."""
    if not is_json(headers.found.get(b"content-type", b"")):
        raise Problem(
            415, "the body must be application/json", headers=(CLOSE, (b"accept", b"application/json"))
        )
