"""One connection: uvicorn's protocol, bounds on what a client may leave unfinished, and a patient end.

Uvicorn ends connections that rest between two requests, and nothing else: one that never sends a head, sends
it a byte a minute or without an end, stops in its body, or does not read its answer would stay and hold
memory. Here each of these has an end, and so has their number: beyond the limit idle ones go, the oldest
first, so that a health check still finds a place.

While the process drains, every answer closes its connection; and a request that is on its way when the port
closes is answered, too.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.errors import Problem
from api.lifecycle import PHASE, Phase
from api.wire import CLOSE, new_request_id, problem_parts

# Without a byte for between one and two of these a head or a body is given up, and so is an answer unread.
PATIENCE_S = 20.0
# Bytes of a head, and of anything else that is no body: white space, chunk sizes, trailers.
HEAD_BYTES = 64 * 1024
# So many more for each byte of body: as chunks of one byte come, it is five.
CHUNKED = 16
# Requests sent before the answer to the first: each is an object already.
PIPELINED = 64
# Of the connections over the limit, what goes at once, so that not every new one has to look for another.
AT_ONCE = 64
# How long a connection without a request outlives the port: one may be on its way, and would be reset.
LAST_S = 0.5
# A new one has so long from its beginning.
FIRST_S = 3.0

_State = tuple[object, int, int, bool]


class Connection(HttpToolsProtocol):
    """Uvicorn makes one for each connection. `limit_concurrency` of its config is the most there may be."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most = self.limit_concurrency or sys.maxsize
        self.limit_concurrency = None  # uvicorn would refuse the newest, whoever it is
        self._since = self.loop.time()
        self._allowance = HEAD_BYTES
        self._looking: asyncio.TimerHandle | None = None
        self._phase: Phase | None = app_state.get(PHASE)
        self._last = False

    @property
    def idle(self) -> bool:
        """No request of it is under way, although one may be arriving."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself, or refuses with 503 where everybody is busy."""
        super().connection_made(transport)
        if len(self.connections) > self._most and not self._make_room():
            self.refuse(Problem(503, "too many connections are busy", code="too_many_connections"))
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone, or this one has given up."""
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what arrives without becoming a request or a body."""
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:
            self._allowance = HEAD_BYTES
            return
        self._allowance -= len(data)
        if self._allowance < 0 and not self.transport.is_closing():
            self.refuse(Problem(431, f"a head may have {HEAD_BYTES} bytes", code="head_too_large"))

    def on_body(self, body: bytes) -> None:
        """A part of a body has been read."""
        self._allowance += CHUNKED * len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """A request begins, or waits behind others of this connection."""
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        if self._last or (self._phase is not None and self._phase.draining):
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The port has closed: the request under way is the last one, else the next, if it comes soon."""
        self._last = True
        if not self.idle:
            super().shutdown()
            return
        first_s = self._since + FIRST_S - self.loop.time() if self.scope is None else 0.0
        self.loop.call_later(max(LAST_S, first_s), super().shutdown)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the service's own kind of error."""
        self.refuse(Problem(400, "this is not a valid HTTP request"))

    def refuse(self, problem: Problem) -> None:
        """Answers without a request, and closes. Where another answer has begun it just ends."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        headers, body = problem_parts(problem, new_request_id())
        headers += [CLOSE, (b"content-length", b"%d" % len(body))]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self.transport.close()

    def _make_room(self) -> bool:
        """Ends idle connections: first those that never sent anything, then those that wait longest."""
        peers = [one for one in self.connections if isinstance(one, Connection)]
        idle = [one for one in peers if one is not self and one.idle]
        idle.sort(key=lambda one: (one.scope is not None, one._since))
        for one in idle[: max(1, min(AT_ONCE, self._most // 8))]:
            self.connections.discard(one)
            one.transport.abort()
        return bool(idle)

    def _look_later(self, before: _State | None = None) -> None:
        self._looking = self.loop.call_later(PATIENCE_S, self._look, before)

    def _look(self, before: _State | None) -> None:
        """Ends what has not moved since the look before. A head has to arrive whole, a body to go on."""
        unread = self.transport.get_write_buffer_size()
        moved = 0 if self.idle else self._allowance
        state = (self.cycle, unread, moved, self.timeout_keep_alive_task is None)
        if state == before or self.scope is None:
            self._unmoved(unread)
        self._look_later(state)

    def _unmoved(self, unread: int) -> None:
        if self.idle and (unread or self.scope is None or self.transport.is_closing()):
            self.transport.abort()
        elif self.idle:
            if self.timeout_keep_alive_task is None:  # else it rests between two requests
                self.refuse(Problem(408, "the head did not arrive in time", code="head_timeout"))
        elif self.cycle.more_body and not self.cycle.response_started and not self.flow.read_paused:
            self.refuse(Problem(408, "the body stopped arriving"))
