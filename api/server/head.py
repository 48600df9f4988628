"""What RFC 9112 asks of a request's head and llhttp does not check, and heads that offer an upgrade.

httptools takes an upgrade that is offered for one that has happened: it ends the request without its body and
reads the body as what follows. Clients offer HTTP/2 this way (curl, Java), and a server may ignore it
(RFC 9110, 7.8).
"""

from __future__ import annotations

from typing import Any

import httptools

from api.errors import Problem

Headers = list[tuple[bytes, bytes]]


class RequestParser:
    """httptools' parser, which reads on after a head that offers an upgrade as if it did not.

    Meanwhile `offered` is true: the head is parsed for the first time, and will be once more.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.get_method = self._parser.get_method
        self.get_http_version = self._parser.get_http_version
        self.should_keep_alive = self._parser.should_keep_alive
        self.should_upgrade = self._parser.should_upgrade

    @property
    def offered(self) -> bool:
        upgrade: bool = self._parser.should_upgrade()
        return upgrade and self._parser.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self.offered:
                    raise  # after CONNECT, whatever its headers say
                data = self._head_without_upgrade() + data[offer.args[0] :]
                self._begin()

    def _head_without_upgrade(self) -> bytes:
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._protocol.url, version)]
        lines += [b"%b: %b" % pair for pair in self._protocol.headers if pair[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


def problem_of_head(headers: Headers, version: str) -> Problem | None:
    """The Host must be there once, the version one of two, and chunked the only transfer coding."""
    if version not in ("1.1", "1.0"):
        return Problem(505, "the HTTP version is 1.1 or 1.0", code="http_version")
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            return Problem(501, "the only transfer coding is chunked", code="transfer_coding")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return Problem(400, "a request has exactly one Host header")
    return None


def with_host_of(target: bytes, headers: Headers) -> Headers:
    """The headers of a request whose target is a whole URL: its host counts, not that of the header."""
    authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].rpartition(b"@")[2]
    return [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
