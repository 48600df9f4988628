"""HTTP as a stranger speaks it: what this service answers, what a bare uvicorn does, and what RFC 9112 asks.

The same application stands behind both. Bytes reach their protocols without a socket, so that a split of a
request is a split of what they read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.lifecycle import Lifecycle
from api.main import create_app
from api.parts import Backends
from api.server.protocol import Connection
from api.settings import ApiSettings
from tests.unit.fakes import FakeCache, FakeHub

BODY = b'{"text":["a"]}'
HOST = b"Host: localhost\r\n"
LENGTH = b"Content-Length: 14\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
EXPECT = b"Expect: 100-continue\r\n"


def get(headers: bytes = HOST, target: bytes = b"/health", version: bytes = b"1.1") -> bytes:
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + headers + b"\r\n"


def post(headers: bytes = LENGTH, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    return b"POST /predict HTTP/" + version + b"\r\n" + HOST + headers + b"\r\n" + body


class Case(NamedTuple):
    """The reads of a connection, and the statuses that come back; `closes`: then the connection ends."""

    parts: Sequence[bytes]
    ours: str
    bare: str = ""


# As the RFC asks, and as uvicorn does.
SAME = {
    "a pipeline of four": Case([post() + get() + post() + get()], "200 200 200 200"),
    "white space before a request": Case([b"\r\n\r\n" + get()], "200"),
    "a whole URL as the target": Case([get(target=b"http://localhost/health")], "200"),
    "HTTP/1.0 without a host": Case([get(b"", version=b"1.0")], "200 closes"),
    "HTTP/1.0 that asks to be kept": Case(
        [get(HOST + b"Connection: keep-alive\r\n", version=b"1.0")], "200 closes"
    ),
    "chunks in HTTP/1.0": Case([post(CHUNKED, CHUNKS, b"1.0")], "200 closes"),
    "what follows a close": Case([get(HOST + b"Connection: close\r\n") + get()], "200 closes"),
    "a body of a GET": Case([get(HOST + b"Content-Length: 5\r\n") + b"hello" + get()], "200 200"),
    "no length": Case([b"POST /predict HTTP/1.1\r\n" + HOST + b"\r\n", get()], "422 200"),
    "a body that is waited for": Case([post(LENGTH + EXPECT, b""), BODY], "100 200"),
    "a body that will not be read": Case([post(EXPECT + b"Content-Length: 99999999\r\n", b"")], "413 closes"),
    "an expectation that is unknown": Case([post(LENGTH + b"Expect: tea\r\n")], "200"),
    "extensions of chunks": Case([post(CHUNKED, b'e;a=b;c="d"\r\n' + BODY + b"\r\n0;x\r\n\r\n")], "200"),
    "sizes with zeros": Case([post(CHUNKED, b"000E\r\n" + BODY + b"\r\n000\r\n\r\n")], "200"),
    "a size that is none": Case([post(CHUNKED, b"zz\r\n" + BODY)], "400 closes"),
    "a size that is negative": Case([post(CHUNKED, b"-e\r\n" + BODY)], "400 closes"),
    "a size beyond 64 bits": Case([post(CHUNKED, b"f" * 17 + b"\r\n" + BODY)], "400 closes"),
    "a chunk longer than its size": Case(
        [post(CHUNKED, CHUNKS.replace(b"e\r\n", b"d\r\n", 1))], "400 closes"
    ),
    "chunks that end in LF": Case([post(CHUNKED, CHUNKS.replace(b"\r\n", b"\n"))], "400 closes"),
    "both lengths": Case([post(LENGTH + CHUNKED, CHUNKS)], "400 closes"),
    "both lengths, the other first": Case([post(CHUNKED + LENGTH, CHUNKS)], "400 closes"),
    "chunked, and then something": Case([post(CHUNKED[:-2] + b", gzip\r\n", CHUNKS)], "400 closes"),
    "chunked twice": Case([post(CHUNKED + CHUNKED, CHUNKS)], "400 closes"),
    "the same length twice": Case([post(LENGTH + LENGTH)], "400 closes"),
    "two lengths": Case([post(LENGTH + b"Content-Length: 15\r\n")], "400 closes"),
    "a list of lengths": Case([post(b"Content-Length: 14, 14\r\n")], "400 closes"),
    "a length with a sign": Case([post(b"Content-Length: +14\r\n")], "400 closes"),
    "a length in hexadecimal": Case([post(b"Content-Length: 0xe\r\n")], "400 closes"),
    "a length beyond 64 bits": Case([post(b"Content-Length: %d\r\n" % 10**20)], "400 closes"),
    "an empty length": Case([post(b"Content-Length:\r\n")], "400 closes"),
    "a space before the colon": Case([get(b"Host : localhost\r\n")], "400 closes"),
    "a folded header": Case([get(HOST + b"X: a\r\n b\r\n")], "400 closes"),
    "a header without a name": Case([get(HOST + b": a\r\n")], "400 closes"),
    "a header without a colon": Case([get(HOST + b"Nonsense\r\n")], "400 closes"),
    "CR in a header": Case([get(HOST + b"X: a\rb\r\n")], "400 closes"),
    "NUL in a header": Case([get(HOST + b"X: a\0b\r\n")], "400 closes"),
    "lines that end in LF": Case([get().replace(b"\r\n", b"\n")], "400 closes"),
    "a space in the target": Case([get(target=b"/he alth")], "400 closes"),
    "a target that is not ASCII": Case([get(target="/hé".encode())], "400 closes"),
    "a method in small letters": Case([get().lower()], "400 closes"),
    "a method that is unknown": Case([b"BREW" + get()[3:]], "400 closes"),
    "a tunnel": Case([b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", get()], "400 closes"),
    "a tunnel to a URL": Case([b"CONNECT http://localhost/health HTTP/1.1\r\n" + HOST + b"\r\n"], "405"),
    "HTTP/2 without asking": Case([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "400 closes"),
    "TLS": Case([b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"], "400 closes"),
    "a fault behind a request": Case([get() + b"BAD\r\n\r\n"], "400 closes"),
    # The RFC allows to reject these.
    "two spaces before the target": Case([get(target=b" /health")], "200"),
    "a fragment": Case([get(target=b"/health#x")], "200"),
}
# As the RFC asks, or by limits of this service, but not as uvicorn does.
OTHER = {
    "an upgrade with a body": Case([post(OFFER + LENGTH), get()], "200 200", "422 200"),
    "an upgrade with chunks": Case([post(OFFER + CHUNKED, CHUNKS), get()], "200 200", "422 200"),
    "an upgrade in a pipeline": Case(
        [post(OFFER + LENGTH) + post(OFFER + LENGTH) + get()], "200 200 200", "422"
    ),
    "an upgrade whose body comes late": Case([post(OFFER + LENGTH)[:-5], BODY[-5:]], "200", "422 400 closes"),
    "trailers that look like headers": Case(
        [post(CHUNKED, b"e\r\n" + BODY + b"\r\n0\r\nHost: evil.example\r\n\r\n"), get()], "200 200", "403 200"
    ),
    "no host": Case([post().replace(HOST, b"")], "400 closes", "200"),
    "two hosts": Case([get(HOST + HOST)], "400 closes", "200"),
    "two hosts, one of them foreign": Case([post(LENGTH + b"Host: evil.example\r\n")], "400 closes", "403"),
    "a URL with another host": Case(
        [post().replace(b"/predict", b"http://evil.example/predict")], "403", "200"
    ),
    "a URL with the host, and another Host": Case(
        [post().replace(b"/predict", b"http://localhost/predict").replace(HOST, b"Host: evil.example\r\n")],
        "200",
        "403",
    ),
    "an expectation in HTTP/1.0": Case(
        [post(LENGTH + EXPECT, version=b"1.0")], "200 closes", "100 200 closes"
    ),
    "a coding that is unknown": Case(
        [post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS)], "501 closes", "200"
    ),
    "HTTP/2 by name": Case([get(version=b"2.0")], "505 closes", "200 closes"),
    "a huge head": Case([get(HOST + b"X: " + b"y" * 70_000 + b"\r\n")], "431 closes", "200"),
    "200 headers": Case([get(HOST + b"a: b\r\n" * 200)], "431 closes", "200"),
    "a huge target": Case([get(target=b"/" + b"y" * 9000)], "414 closes", "404"),
}


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def write(self, data: Any) -> None:
        self.written += b"" if self.closed else bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def pause_reading(self) -> None:
        """The tests send little."""

    def resume_reading(self) -> None:
        """See above."""


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    lifecycle = Lifecycle()
    lifecycle.started = True
    return create_app(ApiSettings(), Backends(FakeHub(), FakeCache()), lifecycle=lifecycle)


async def said(protocol: type[HttpToolsProtocol], app: ASGIApp, parts: Sequence[bytes]) -> str:
    """The statuses of all answers, and whether the server closes the connection."""
    config = Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    connection = protocol(config, ServerState(), {})
    wire = Wire(connection)
    connection.connection_made(wire)
    for part in parts:
        if not wire.closed:
            connection.data_received(part)
            await pause()
    statuses = [status.decode() for status in re.findall(rb"HTTP/1\.1 (\d{3})", wire.written)]
    found = " ".join([*statuses, *["closes"] * wire.closed])
    connection.connection_lost(None)
    await pause()
    return found


async def pause() -> None:
    """Requests here wait for nothing but turns of the event loop."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", SAME)
async def test_an_odd_request_gets_what_the_rfc_asks_and_uvicorn_gives(app: ASGIApp, name: str) -> None:
    case = SAME[name]
    assert await said(Connection, app, case.parts) == case.ours
    assert await said(HttpToolsProtocol, app, case.parts) == case.ours


@pytest.mark.parametrize("name", OTHER)
async def test_an_odd_request_gets_what_the_rfc_asks_where_uvicorn_does_not(app: ASGIApp, name: str) -> None:
    """If uvicorn comes to do as the RFC asks, what `api/server` does about it can go."""
    case = OTHER[name]
    assert await said(Connection, app, case.parts) == case.ours
    assert await said(HttpToolsProtocol, app, case.parts) == case.bare


@pytest.mark.parametrize(
    "raw",
    [
        post(),
        post(OFFER + LENGTH) + get(),
        post(CHUNKED, b"e;a=b\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n") + get(),
        post().replace(b"/predict", b"http://localhost/predict"),
    ],
    ids=["a length", "an upgrade", "chunks and trailers", "a whole URL"],
)
async def test_a_request_may_be_split_anywhere(app: ASGIApp, raw: bytes) -> None:
    whole = await said(Connection, app, [raw])
    assert set(whole.split()) == {"200"}
    assert await said(Connection, app, [raw[at : at + 1] for at in range(len(raw))]) == whole
    for at in range(1, len(raw), 3):
        assert await said(Connection, app, [raw[:at], raw[at:]]) == whole, raw[:at]


async def test_operators_were_told_to_install_a_library_for_websockets(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    """By two warnings for each CONNECT."""
    assert await said(Connection, app, SAME["a tunnel to a URL"].parts) == "405"
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_a_trailer_is_no_header_of_its_request() -> None:
    """A proxy that removes a header may pass a trailer of that name on."""
    seen: list[Any] = []

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    trailers = b"e\r\n" + BODY + b"\r\n0\r\nX-API-Key: stolen\r\n\r\n"
    assert await said(Connection, keep, [post(CHUNKED, trailers)]) == "200"
    assert seen == [b"host", b"transfer-encoding"]
