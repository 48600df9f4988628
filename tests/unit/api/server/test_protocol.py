"""Limits for slow and stalled clients, at a real server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest
import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.asgi.http import CLOSE, JSON, BodyReader, RequestHeaders, send_answer, unless_disconnected
from api.lifecycle import LIFECYCLE, Lifecycle
from api.server import limits
from api.server.limits import BACKLOG, RESERVE, Backlog
from api.server.protocol import Connection
from tests.servers import free_port

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[..., Awaitable[Peer]]
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LARGE = b"x" * 5_000_000
# A client with the largest buffer must read megabytes of it before Linux lets the server send more.
RECEIVE_BYTES = 256 * 1024


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """GET responds at once, with a large body, endlessly or late; POST responds with the body's length."""
    body = b"hello"
    if scope["path"] == "/unread":
        while not RequestHeaders(scope).left():  # noqa: ASYNC110 - it says so in no other way
            await asyncio.sleep(0.01)
        return
    if scope["path"] == "/refused":
        await send_answer(send, 413, [JSON, *[CLOSE] * (scope["query_string"] == b"closes")], b"hello")
        return
    if scope["method"] == "POST":
        try:
            body = b"%d" % len(await BodyReader(1 << 20, 60).read(RequestHeaders(scope), receive))
        except ClientDisconnect:
            return
    elif scope["path"] == "/large":
        body = LARGE
    elif scope["path"] == "/slow":
        await asyncio.sleep(60)
    elif scope["path"] in ("/soon", "/late"):
        try:
            await unless_disconnected(receive, asyncio.sleep(0.3 if scope["path"] == "/soon" else 60))
        except ClientDisconnect:
            return
    elif scope["path"] == "/parts":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for at in range(0, len(LARGE), 65536):
            await send({"type": "http.response.body", "body": LARGE[at : at + 65536], "more_body": True})
        await send({"type": "http.response.body"})
        return
    elif scope["path"] == "/broken":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await asyncio.sleep(0.1)
        raise ValueError
    elif scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        listening = asyncio.ensure_future(left(receive))
        while not listening.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        return
    await send_answer(send, 200, [JSON], body)


async def left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def served(most: int) -> AsyncIterator[tuple[uvicorn.Server, Dial]]:
    port = free_port()
    config = uvicorn.Config(
        app, http=Connection, limit_concurrency=most, port=port, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())  # `serve` would take the signals of this process
    async with AsyncExitStack() as stack:
        stack.push_async_callback(end, server, running)
        while not server.started:  # noqa: ASYNC110 - it says so in no other way
            await asyncio.sleep(0.01)

        async def dial(receive_bytes: int = 0) -> Peer:
            dialled = socket.socket()
            dialled.setblocking(False)
            if receive_bytes:
                dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            await asyncio.get_running_loop().sock_connect(dialled, ("127.0.0.1", port))
            peer = await asyncio.open_connection(sock=dialled)
            stack.push_async_callback(hang_up, peer)
            return peer

        yield server, dial


async def hang_up(peer: Peer) -> None:
    peer[1].transport.abort()
    with contextlib.suppress(ConnectionError):
        await peer[1].wait_closed()


async def end(server: uvicorn.Server, running: asyncio.Task[None]) -> None:
    server.should_exit = server.force_exit = True
    # Since Python 3.12, a server waits for connections. One that reads nothing does not see its client go.
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await running


@pytest.fixture
async def dial(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dial]:
    """Opens connections to a server with short timeouts."""
    monkeypatch.setattr(limits, "PATIENCE_S", 0.2)
    async with served(1000) as (_, dial):
        yield dial


async def answer(peer: Peer) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        head = (await peer[0].readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        return int(head[0].split()[1]), headers, await peer[0].readexactly(int(headers["content-length"]))


async def refusal(peer: Peer) -> tuple[int, str]:
    """Status and code of an error in the service's format, after which the connection closes."""
    status, headers, body = await answer(peer)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    said = json.loads(body)
    assert said["request_id"] == headers["x-request-id"]
    assert said["detail"]
    assert await ended(peer)
    return status, said["code"]


async def ended(peer: Peer) -> bool:
    try:
        async with asyncio.timeout(5):
            return await peer[0].read(1) == b""
    except ConnectionResetError:
        return True


async def drip(peer: Peer) -> None:
    """Sends a head one byte at a time, endlessly."""
    for byte in b"GET / HTTP/1.1\r\nx-slow: " + b"x" * 200:
        peer[1].write(bytes([byte]))
        await asyncio.sleep(0.04)


async def pour(peer: Peer) -> None:
    """Sends 200 MB of headers, unless the server closes the connection."""
    for _ in range(200_000):
        peer[1].write(b"x-more: " + b"y" * 1000 + b"\r\n")
        await peer[1].drain()


async def test_what_is_no_http_is_refused_in_the_form_of_the_service(
    dial: Dial,
) -> None:
    for raw in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n"):
        peer = await dial()
        peer[1].write(raw)
        assert await refusal(peer) == (400, "bad_request")


async def test_who_says_nothing_is_let_go_and_who_asked_is_kept(dial: Dial) -> None:
    silent, asking = await dial(), await dial()
    asking[1].write(GET)
    assert (await answer(asking))[2] == b"hello"
    assert await ended(silent)
    await asyncio.sleep(0.8)
    asking[1].write(GET)
    assert (await answer(asking))[2] == b"hello", "it rested, which is allowed for 5 s here"


async def test_a_head_that_comes_drop_by_drop_is_given_up(dial: Dial) -> None:
    for before in (b"", GET):
        peer = await dial()
        if before:
            peer[1].write(before)
            await answer(peer)
        dripping = asyncio.create_task(drip(peer))
        assert await refusal(peer) == (408, "head_timeout")
        dripping.cancel()


async def test_a_head_without_an_end_is_refused(dial: Dial) -> None:
    peer = await dial()
    peer[1].write(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ConnectionError):
        await pour(peer)


async def test_a_body_that_never_begins_or_stops_is_given_up(dial: Dial) -> None:
    for begun in (b"", b"{"):
        peer = await dial()
        peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n" + begun)
        assert await refusal(peer) == (408, "body_timeout")


async def test_a_body_that_goes_on_is_read_to_its_end(dial: Dial) -> None:
    peer = await dial()
    peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(10):
        peer[1].write(b"1\r\nx\r\n" * 4000)
        await asyncio.sleep(0.1)
    peer[1].write(b"0\r\n\r\n")
    assert (await answer(peer))[2] == b"40000"


async def test_trailers_without_an_end_are_refused(dial: Dial) -> None:
    peer = await dial()
    peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    with pytest.raises(ConnectionError):
        await pour(peer)


async def test_too_many_requests_before_the_first_answer(dial: Dial) -> None:
    peer = await dial()
    peer[1].write(GET * 20)
    for _ in range(20):
        assert (await answer(peer))[0] == 200
    peer = await dial()
    peer[1].write(GET * 1000)
    assert await refusal(peer) == (400, "bad_request")


async def test_who_does_not_read_the_answer_is_let_go() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PATIENCE_S", 0.2)
        async with served(1000) as (server, dial):
            _, writer = await dial()
            writer.transport.pause_reading()
            writer.write(GET.replace(b"/ ", b"/large "))
            async with asyncio.timeout(5):
                while not server.server_state.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                while server.server_state.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_beyond_the_limit_idle_connections_go_and_busy_ones_stay() -> None:
    async with served(16) as (server, dial):
        rested = await dial()
        rested[1].write(GET)
        await answer(rested)
        busy = [await dial() for _ in range(8)]
        for peer in busy:
            peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
        silent = [await dial() for _ in range(40)]
        late = await dial()
        late[1].write(GET)
        assert (await answer(late))[2] == b"hello"
        assert len(server.server_state.connections) <= 16
        assert await ended(silent[0])
        for peer in busy:
            peer[1].write(b"x")
            assert (await answer(peer))[2] == b"2"
        rested[1].write(GET)
        assert (await answer(rested))[0] == 200, "it had spoken; those that never did went first"


async def test_each_of_several_connections_that_come_at_once_takes_the_place_of_another() -> None:
    """Each of them would have closed the same one, which is still there until the event loop goes on."""
    async with served(8) as (server, dial):
        for _ in range(8):
            await dial()
        address = server.servers[0].sockets[0].getsockname()
        late = [socket.create_connection(address) for _ in range(4)]
        peers = [await asyncio.open_connection(sock=one) for one in late]
        for peer in peers:
            peer[1].write(GET)
            assert (await answer(peer))[0] == 200
        assert len(server.server_state.connections) == 8
        for peer in peers:
            await hang_up(peer)


def probe(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def unread(dial: Dial, path: str = "/endless") -> Peer:
    """A connection that sends a request and does not read the response."""
    peer = await dial()
    peer[1].transport.pause_reading()  # type: ignore[attr-defined]
    peer[1].write(probe(path))
    return peer


async def until_connections(server: uvicorn.Server, most: int) -> None:
    async with asyncio.timeout(10):
        while len(server.server_state.connections) > most:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_stalled(connection: limits.LimitedProtocol) -> None:
    """All buffers between the response and its reader are full."""
    before = -1
    while before != connection._resumed:
        before = connection._resumed
        await asyncio.sleep(0.2)


async def test_when_all_are_busy_the_next_is_told_so() -> None:
    async with served(4) as (_, dial):
        for _ in range(4):
            peer = await dial()
            peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
        await asyncio.sleep(0.1)
        late = await dial()
        late[1].write(GET)
        assert await refusal(late) == (503, "too_many_connections")


async def test_finding_12_when_all_are_busy_probes_are_answered() -> None:
    """More clients than allowed hold their connections, but the reserve is kept for probes."""
    async with served(4) as (server, dial):
        for _ in range(4):
            peer = await dial()
            peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
        silent = [await dial() for _ in range(2 * RESERVE)]
        for path in ("/livez", "/readyz", "/health?x=1", "/metrics"):
            asking = await dial()
            asking[1].write(probe(path))
            status, headers, _ = await answer(asking)
            assert (status, headers["connection"]) == (200, "close")
            assert await ended(asking)
        assert len(server.server_state.connections) <= 4 + RESERVE
        assert await ended(silent[0])
        late = await dial()
        late[1].write(probe("/livezz"))
        assert await refusal(late) == (503, "too_many_connections")


async def test_finding_12_a_streamed_answer_that_nobody_reads_is_ended() -> None:
    """Also if the client goes on sending, and if the response is queued behind another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PATIENCE_S", 0.3)
        async with served(1000) as (server, dial):
            await unread(dial)
            sending = await unread(dial)
            behind = await unread(dial, "/large")
            behind[1].write(GET * 8)
            for _ in range(5):
                sending[1].write(b"GET / HT")
                await asyncio.sleep(0.1)
            await until_connections(server, 0)


async def test_finding_12_a_streamed_answer_that_is_read_slowly_goes_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PATIENCE_S", 1.0)
        async with served(1000) as (_, dial):
            peer = await dial(RECEIVE_BYTES)
            peer[1].write(probe("/endless"))
            for _ in range(30):
                assert await peer[0].read(1 << 20)
                await asyncio.sleep(0.1)


async def test_each_megabyte_that_a_client_reads_is_progress() -> None:
    """If the kernel may buffer megabytes, several must be read before the API hears of it."""
    async with served(1000) as (server, dial):
        peer = await dial(RECEIVE_BYTES)
        peer[1].write(probe("/endless"))
        await peer[0].readexactly(16_000_000)  # Linux enlarges the buffer of the sender for it
        (connection,) = server.server_state.connections
        assert isinstance(connection, limits.LimitedProtocol)
        for _ in range(5):
            await until_stalled(connection)
            before = connection._resumed
            await peer[0].readexactly(1_000_000)
            async with asyncio.timeout(10):
                while connection._resumed == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_finding_12_answers_that_nobody_reads_make_room_for_others() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "STALLED_S", 0.2)
        async with served(4) as (server, dial):
            for _ in range(4):
                await unread(dial)
            await asyncio.sleep(1.0)
            late = await dial()
            late[1].write(GET)
            assert (await answer(late))[0] == 200
            assert len(server.server_state.connections) <= 4


async def test_finding_11_answers_not_read_have_a_bound_together() -> None:
    """The connection that has waited longest is closed."""
    async with served(1000) as (server, dial):
        server.lifespan.state[BACKLOG] = Backlog(unsent_bytes=4_000_000)
        for _ in range(12):
            await unread(dial, "/large")
            await asyncio.sleep(0.05)
        await until_connections(server, 8)


def test_as_many_unread_answers_as_may_be_close_nobody() -> None:
    backlog, first, second = Backlog(unsent_bytes=10), *(cast(limits.LimitedProtocol, object()) for _ in "ab")
    assert list(backlog.unsent(first, 4)) == []
    assert list(backlog.unsent(second, 6)) == []
    assert list(backlog.unsent(second, 7)) == [first]


def test_only_answers_that_are_unread_for_long_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    backlog, first, second = Backlog(), *(cast(limits.LimitedProtocol, object()) for _ in "ab")
    assert list(backlog.unsent(first, 4)) == []
    now[0] = 101.0
    assert list(backlog.unsent(second, 6)) == []
    assert backlog.stalled(2.0) == []
    now[0] = 102.5
    assert backlog.stalled(2.0) == [first]


async def test_finding_11_bodies_not_taken_have_a_bound_together() -> None:
    """The bodies wait behind a request that has not been answered yet."""
    async with served(1000) as (server, dial):
        server.lifespan.state[BACKLOG] = Backlog(unread_bytes=1_000_000)
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        for _ in range(20):
            peer = await dial()
            peer[1].write(probe("/slow") + head % 100_000 + b"x" * 99_999)
            await asyncio.sleep(0.05)
        await until_connections(server, 10)


async def test_a_body_in_small_parts_counts_towards_that_bound() -> None:
    async with served(10) as (server, dial):
        server.lifespan.state[BACKLOG] = Backlog(unread_bytes=20_000)
        _, writer = await dial()
        writer.write(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        for _ in range(20):
            writer.write(b"x" * 2000)
            await asyncio.sleep(0.01)
        await until_connections(server, 0)


@pytest.mark.parametrize(
    ("head", "refused"),
    [
        (b"GET / HTTP/1.1\r\nprefer: wait=" + b" " * 9000 + b"1\r\n\r\n", (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"x" * 9000 + b": 1\r\n\r\n", (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", (431, "too_many_headers")),
        (b"GET /?" + b"a&" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", (414, "target_too_long")),
    ],
    ids=["value", "name", "many", "target"],
)
async def test_finding_07_parts_of_a_head_have_limits_of_their_own(
    dial: Dial, head: bytes, refused: tuple[int, str]
) -> None:
    peer = await dial()
    peer[1].write(head)
    assert await refusal(peer) == refused


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
    ],
    ids=["headers", "trailers"],
)
async def test_finding_07_headers_are_counted_while_they_arrive(dial: Dial, begun: bytes) -> None:
    """Thousands of short ones fit into the largest head, and each takes many times its size in memory."""
    peer = await dial()
    peer[1].write(begun + b"a: b\r\n" * 150)
    assert await refusal(peer) == (431, "too_many_headers")


@pytest.mark.parametrize("more", [0, 1])
async def test_the_largest_head_is_read_and_one_byte_more_is_refused(more: int) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\n" + (b"a: " + b"x" * 7000 + b"\r\n") * 9
    async with served(1000) as (_, dial):
        peer = await dial()
        peer[1].write(head + b"b: " + b"x" * (limits.HEAD_BYTES + more - len(head) - 3))
        if more:
            assert await refusal(peer) == (431, "head_too_large")
            return
        await asyncio.sleep(0.2)  # what completes a head in the same read is not counted
        peer[1].write(b"\r\n\r\n")
        assert (await answer(peer))[0] == 200


async def test_a_request_that_is_on_its_way_when_the_port_closes_is_answered() -> None:
    """On a new or an idle connection. Closing these at once would reset the request."""
    async with served(16) as (server, dial):
        rested, new = await dial(), await dial()
        rested[1].write(GET)
        assert "connection" not in (await answer(rested))[1]
        server.should_exit = True
        while server.servers[0].is_serving():  # noqa: ASYNC110 - it says so in no other way
            await asyncio.sleep(0.01)
        for peer in (rested, new):
            peer[1].write(GET)
            status, headers, _ = await answer(peer)
            assert (status, headers["connection"]) == (200, "close")
            assert await ended(peer)


async def test_a_new_connection_has_longer_to_bring_its_request() -> None:
    """On a busy machine, more than half a second may pass between connection and request."""
    async with served(16) as (server, dial):
        rested, new = await dial(), await dial()
        rested[1].write(GET)
        await answer(rested)
        server.should_exit = True
        assert await ended(rested)
        await asyncio.sleep(limits.LAST_S)
        new[1].write(GET)
        assert (await answer(new))[0] == 200


async def test_who_says_nothing_more_does_not_keep_the_server() -> None:
    async with served(16) as (server, dial):
        rested, new = await dial(), await dial()
        rested[1].write(GET)
        await answer(rested)
        server.should_exit = True
        async with asyncio.timeout(limits.FIRST_S + 2):
            while server.server_state.connections:  # noqa: ASYNC110 - it says so in no other way
                await asyncio.sleep(0.01)
        assert await ended(rested)
        assert await ended(new)


async def test_while_the_process_drains_every_answer_closes_its_connection() -> None:
    lifecycle = Lifecycle()
    async with served(16) as (server, dial):
        server.lifespan.state[LIFECYCLE] = lifecycle
        peer = await dial()
        for draining in (False, True):
            lifecycle.draining = draining
            peer[1].write(GET)
            assert ("connection" in (await answer(peer))[1]) is draining
        assert await ended(peer)


@pytest.mark.parametrize("requests", [1, 2])
async def test_a_client_that_had_sent_all_it_wanted_to_send_got_no_answer(dial: Dial, requests: int) -> None:
    """`nc -N` ends its side of the connection after a request. It asks for the answer nevertheless."""
    reader, writer = await dial()
    writer.write(b"GET /soon HTTP/1.1\r\nhost: x\r\n\r\n" * requests)
    writer.write_eof()
    async with asyncio.timeout(20):
        interim, *answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
    assert interim == b"100 Continue\r\n\r\n"
    assert [one[:3] + one[-5:] for one in answers] == [b"200hello"] * requests


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_was_cut_off_whose_client_had_sent_all_it_wanted_to_send(
    dial: Dial, version: bytes
) -> None:
    """Both if it says so during its answer, and if it reads its answer slowly afterwards."""
    reader, writer = await dial(RECEIVE_BYTES)
    writer.write(b"GET /parts HTTP/%b\r\nhost: x\r\n\r\n" % version)
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await asyncio.sleep(3 * limits.LOOK_S)
        answered = await reader.read()
    assert answered.count(b"x") == len(LARGE)


async def test_half_a_body_is_not_waited_for_after_its_end(dial: Dial) -> None:
    peer = await dial()
    peer[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    peer[1].write_eof()
    assert await ended(peer)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notices an end behind unread bytes")
@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /late HTTP/1.1\r\n",
        b"GET /late HTTP/1.0\r\n",
        b"POST /unread HTTP/1.1\r\ncontent-length: 160000\r\n",
        b"POST /unread HTTP/1.0\r\ncontent-length: 160000\r\n",
    ],
)
async def test_work_went_on_for_a_client_whose_end_was_behind_unread_bytes(request_head: bytes) -> None:
    async with served(10) as (server, dial):
        _, writer = await dial()
        writer.write(request_head + b"host: x\r\n\r\n" + b"x" * 160_000 * request_head.startswith(b"POST"))
        async with asyncio.timeout(20):
            await writer.drain()
            while not server.server_state.tasks:  # noqa: ASYNC110 - it says so in no other way
                await asyncio.sleep(0.01)
            writer.close()
            while server.server_state.tasks:  # noqa: ASYNC110 - it says so in no other way
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", [b"/", b"/refused", b"/refused?closes"])
async def test_a_lost_connection_kept_the_body_that_nobody_had_read_until_garbage_was_collected(
    path: bytes,
) -> None:
    async with served(10) as (server, dial):
        gc.collect()
        gc.disable()
        try:
            peer = await dial()
            peer[1].write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n" % path)
            while not server.server_state.connections:  # noqa: ASYNC110 - it says so in no other way
                await asyncio.sleep(0.01)
            (connection,) = map(weakref.ref, server.server_state.connections)
            peer[1].write(b"x" * 300_000)
            await asyncio.sleep(0.05)
            await hang_up(peer)
            async with asyncio.timeout(10):
                while connection() is not None:  # noqa: ASYNC110 - it says so in no other way
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


# What is refused before the end of what its client sends.
LENGTH = b"content-length: 1000000000\r\n\r\n"
EARLY = {
    "by an answer that closes": b"POST /refused?closes HTTP/1.1\r\nhost: x\r\n" + LENGTH,
    "for a client that closes": b"POST /refused HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + LENGTH,
    "in HTTP/1.0": b"POST /refused HTTP/1.0\r\n" + LENGTH,
    "in chunks": b"POST /refused?closes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
    "by its head": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    "as no HTTP": b"hello\r\n",
    "in a pipeline": b"GET /refused?closes HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx:",
}


@pytest.mark.parametrize("name", EARLY)
async def test_a_client_that_was_still_sending_lost_its_answer(name: str) -> None:
    """It got a reset, because the server closed the connection without reading what was still coming."""

    def say(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(EARLY[name])
            for _ in range(400):
                client.sendall(b"1\r\nx\r\n" * 20_000)
            return b"".join(iter(lambda: client.recv(65536), b""))

    async with served(10) as (server, _):
        said = await asyncio.to_thread(say, server.config.port)
    assert re.match(rb"HTTP/1.1 (200|400|413|431) ", said)
    assert said.endswith((b"hello", b"}"))
    assert b"connection: close" in said


OLD = b" HTTP/1.0\r\n\r\n"


async def test_a_client_of_http_1_0_got_the_sizes_of_chunks_between_its_results(dial: Dial) -> None:
    reader, writer = await dial()
    writer.write(b"GET /parts" + OLD)
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == LARGE


@pytest.mark.parametrize("sending", [b"", b"content-length: 9\r\n"], ids=["", "while its client is sending"])
async def test_a_response_in_http_1_0_that_is_cut_off_does_not_look_whole(dial: Dial, sending: bytes) -> None:
    reader, writer = await dial()
    writer.write(b"GET /broken HTTP/1.0\r\n" + sending + b"\r\n")
    assert (await reader.readuntil(b"some")).startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)


@pytest.mark.parametrize("path", [b"/endless", b"/large"])
async def test_a_response_in_http_1_0_that_is_ended_does_not_look_whole(path: bytes) -> None:
    async with served(9) as (server, dial):
        reader, writer = await dial(RECEIVE_BYTES)
        writer.write(b"GET " + path + OLD)
        await reader.readuntil(b"xxx")
        (connection,) = cast("set[Connection]", server.server_state.connections)
        connection.end()
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
