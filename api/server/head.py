"""Request heads that need special treatment: large ones, whole URLs as targets, and offers of an upgrade."""

from __future__ import annotations

from typing import Any

import httptools

from api.errors import Problem

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
