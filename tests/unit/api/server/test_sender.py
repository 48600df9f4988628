"""What `Sender` sends, compared with uvicorn alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.asgi.http import CLOSE, JSON, send_answer
from api.server.protocol import WHOLE_BYTES, Sender

LOG = logging.getLogger(__name__)
Headers = list[tuple[bytes, bytes]]


class Transport(asyncio.Transport):
    """Keeps what is written, one item for each write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def cycle_of(transport: Transport, method: str = "POST", *, keep_alive: bool = True) -> RequestResponseCycle:
    return RequestResponseCycle(
        scope={"method": method, "http_version": "1.1"},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=LOG,
        access_logger=LOG,
        access_log=False,
        default_headers=[(b"date", b"Fri, 27 Nov 2026 12:00:00 GMT")],
        message_event=asyncio.Event(),
        expect_100_continue=True,
        keep_alive=keep_alive,
        on_response=lambda: transport.written.append(b"answered"),
    )


async def sent(cycle: RequestResponseCycle, send: Any, messages: list[dict[str, Any]]) -> tuple[object, ...]:
    """All that shows of a response: bytes, state, and the error, if there is one."""
    error = ""
    try:
        for message in messages:
            await send(message)
    except (RuntimeError, ValueError) as raised:
        error = str(raised)
    transport: Any = cycle.transport
    state = cycle.response_started, cycle.response_complete, cycle.keep_alive, cycle.waiting_for_100_continue
    return b"".join(transport.written), transport.closed, *state, cycle.message_event.is_set(), error


names = st.sampled_from(
    [b"x-model", b"content-length", b"X-Upper", b"connection", b"transfer-encoding", b"bad name"]
)
values = st.sampled_from(
    [b"a", b"", b"close", b"4", b"chunked", b"a\tb", b"\xe9", b"a\r\nx-forged: 1", b"a\n", b"\0"]
)
bodies = st.sampled_from([b"", b"body", b"\r\n\r\n", b"x" * WHOLE_BYTES, b"x" * (WHOLE_BYTES + 1)])


@st.composite
def responses(draw: st.DrawFn) -> list[dict[str, Any]]:
    parts = draw(st.lists(bodies, min_size=1, max_size=2))
    headers = draw(st.lists(st.tuples(names, values), max_size=2))
    whole = b"%d" % sum(map(len, parts))
    length = draw(st.sampled_from([whole, whole, b"3", None]))
    headers += [] if length is None else [(b"content-length", length)]
    status = draw(st.sampled_from([200, 204, 304, 404, 503]))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    last = len(parts) - 1
    rest = [
        {"type": "http.response.body", "body": part, "more_body": at < last} for at, part in enumerate(parts)
    ]
    return [start, *rest, *draw(st.sampled_from([[], [start], rest[-1:]]))]


LENGTHS = [(b"content-length", b"3"), (b"content-length", b"4")]
TWO_LENGTHS = [
    {"type": "http.response.start", "status": 200, "headers": LENGTHS},
    {"type": "http.response.body", "body": b"body"},
]


@settings(max_examples=1000)
@example(messages=TWO_LENGTHS, method="GET", keep_alive=True, disconnected=False)
@given(responses(), st.sampled_from(["GET", "POST", "HEAD"]), st.booleans(), st.booleans())
async def test_it_sends_what_uvicorn_would_send(
    messages: list[dict[str, Any]], method: str, keep_alive: bool, disconnected: bool
) -> None:
    alone = cycle_of(Transport(), method, keep_alive=keep_alive)
    through = cycle_of(Transport(), method, keep_alive=keep_alive)
    alone.disconnected = through.disconnected = disconnected
    expected = await sent(alone, alone.send, messages)
    assert await sent(through, Sender(None, through).send, messages) == expected


async def test_a_whole_response_takes_one_write() -> None:
    transport = Transport()
    await send_answer(Sender(None, cycle_of(transport)).send, 200, [JSON], b"{}")
    response, said = transport.written
    assert response.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert response.endswith(b"content-length: 2\r\n\r\n{}")
    assert said == b"answered"


async def test_a_response_that_closes_is_left_to_uvicorn() -> None:
    transport = Transport()
    await send_answer(Sender(None, cycle_of(transport)).send, 200, [CLOSE, JSON], b"{}")
    assert transport.closed
    assert len(transport.written) == 3


async def test_a_response_waits_for_a_client_that_reads_slowly() -> None:
    transport = Transport()
    cycle = cycle_of(transport)
    cycle.flow.pause_writing()
    sending = asyncio.create_task(send_answer(Sender(None, cycle).send, 200, [JSON], b"{}"))
    await asyncio.sleep(0)
    assert not transport.written
    cycle.flow.resume_writing()
    await sending
    assert b"".join(transport.written).endswith(b"{}answered")


async def test_an_application_that_fails_behind_its_head_is_answered_with_500() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        raise ValueError("no body")

    transport = Transport()
    cycle = cycle_of(transport)
    await cycle.run_asgi(Sender(app, cycle).run)  # type: ignore[arg-type]
    assert transport.written[0].startswith(b"HTTP/1.1 500 ")
