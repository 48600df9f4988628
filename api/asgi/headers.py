"""What the head of a request says: headers that matter, the request id, Prefer, the address of the client."""

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
# What load balancers, orchestrators and monitors ask. They also use HEAD: it is read as GET, and the server
# leaves the body out.
PROBES = frozenset(("/health", "/livez", "/readyz", "/metrics"))

# White space in the value of a header.
BLANK = b" \t"
# Types of a body of JSON; the form type is what `curl -d` sends when nobody states a type.
JSON_TYPES = frozenset((b"", b"application/json", b"application/x-www-form-urlencoded"))
# Of a Content-Length; int() refuses numbers of thousands of them.
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
    """What `Prefer` asks for: seconds to wait, and whether the answer may be a job (RFC 7240)."""

    wait_s: float | None = None
    respond_async: bool = False


NO_PREFERENCE = Preference()


def new_request_id() -> bytes:
    """For a request that brought none."""
    return b"%032x" % getrandbits(128)


class RequestHeaders:
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
        """The address of the other side, of IPv6 its network: what limits count by where there is no key."""
        address = self.scope.get("client")
        return network_of(str(address[0])) if address else ""


@lru_cache(4096)
def network_of(address: str) -> str:
    """An IPv4 address as it is; of IPv6 the /64, which belongs to one client as a rule."""
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
    """Malformed and unknown preferences are ignored, and the first of its name counts, as RFC 7240 has it."""
    wait_s: float | None = None
    respond_async = False
    for part in b",".join(lines).split(b","):
        # Parameters after ; are ignored, and so is a quoted string with , or ; in it: neither name has one.
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
    """JSON, no type at all (load scripts send none), or what curl sends unasked."""
    if content_type in JSON_TYPES:
        return True
    said = content_type.partition(b";")[0].strip(BLANK).lower()
    return said in JSON_TYPES or (said.startswith(b"application/") and said.endswith(b"+json"))


def check_encoding(head: RequestHeaders) -> None:
    """A body is read as it is. 415 for one that says that it is compressed."""
    said = head.found.get(b"content-encoding")
    if said is not None and said.strip().lower() not in (b"", b"identity"):
        detail = "the body must be sent as it is, without Content-Encoding"
        raise Problem(415, detail, headers=(CLOSE, (b"accept-encoding", b"identity")))


def check_json(head: RequestHeaders) -> None:
    """Anything else than JSON is 415."""
    if not is_json(head.found.get(b"content-type", b"")):
        raise Problem(
            415, "the body must be application/json", headers=(CLOSE, (b"accept", b"application/json"))
        )
