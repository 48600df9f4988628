"""One connection: uvicorn's protocol, bounds on what a client may leave unfinished, and a patient end.

Uvicorn ends connections that rest between two requests, and nothing else: one that never sends a head, sends
it a byte a minute or without an end, stops in its body, or does not read its answer would stay and hold
memory. Here each of these has an end, and so has their number: beyond the limit idle ones are closed, the
oldest first, then those whose answer is not read, the longest first. Where neither is left, a few more are
accepted for probes alone.

While the process drains, every answer closes its connection; and a request that is on its way when the port
closes is answered, too.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, NoReturn

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.asgi.headers import CLOSE, PROBES, new_request_id
from api.asgi.responses import problem_parts
from api.errors import Problem
from api.lifecycle import LIFECYCLE, Lifecycle
from api.server.backlog import BACKLOG, Backlog

# Without a byte for between one and two of these a head or a body is given up, and so is an answer unread.
PATIENCE_S = 20.0
# Bytes of a head, and of anything else that is no body: white space, chunk sizes, trailers.
HEAD_BYTES = 64 * 1024
# Of one header, and how many there may be; and of the target: path and query.
HEADER_BYTES = 8 * 1024
HEADERS = 100
TARGET_BYTES = 8 * 1024
# So many more for each byte of body: as chunks of one byte come, it is five.
CHUNKED = 16
# Requests sent before the answer to the first: each is an object already.
PIPELINED = 64
# An answer that has waited so long to be read may be ended where the room is needed.
STALLED_S = 2.0
# What the transport holds of an answer before the application has to wait.
UNSENT_BYTES = 16 * 1024
# Of the connections over the limit, what goes at once, so that not every new one has to look for another.
AT_ONCE = 64
# How long a connection without a request outlives the port: one may be on its way, and would be reset.
LAST_S = 0.5
# A new one has so long from its beginning.
FIRST_S = 3.0

_State = tuple[object, int, bool]
_PROBE_TARGETS = frozenset(path.encode() for path in PROBES)


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
        self._lifecycle: Lifecycle | None = app_state.get(LIFECYCLE)
        self._backlog: Backlog[Connection] = app_state.setdefault(BACKLOG, Backlog())
        self._last = False
        self._probes_only = False
        self._refusal: Problem | None = None
        self._resumed = 0
        self._running: RequestResponseCycle | None = None

    @property
    def idle(self) -> bool:
        """No request of it is under way, although one may be arriving."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself. Where all others are busy, it may ask as probes do, and nothing else."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(UNSENT_BYTES)
        if len(self.connections) > self._most and not self._make_room():
            self._probes_only = True
            for oldest in self._backlog.reserve(self):
                oldest.end()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone, or this one has given up."""
        if self._looking is not None:
            self._looking.cancel()
        self._backlog.forget(self)
        self._disconnect()
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

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        if len(self.url) > TARGET_BYTES:
            self._give_up(Problem(414, f"path and query may have {TARGET_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header is complete."""
        if len(name) + len(value) > HEADER_BYTES:
            self._give_up(Problem(431, f"a header may have {HEADER_BYTES} bytes"))
        if len(self.headers) >= HEADERS:
            self._give_up(Problem(431, f"a head may have {HEADERS} headers", code="too_many_headers"))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of a body has been read."""
        self._allowance += CHUNKED * len(body)
        super().on_body(body)
        if not self._backlog.unread(self, len(body)):
            self._give_up(Problem(503, "too many bodies arrive at once", code="too_many_bodies"))

    def on_headers_complete(self) -> None:
        """A request begins, or waits behind others of this connection."""
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests at once")
        if self._probes_only and self.url.partition(b"?")[0] not in _PROBE_TARGETS:
            self._give_up(_crowded())
        super().on_headers_complete()
        if self._last or self._probes_only or (self._lifecycle is not None and self._lifecycle.draining):
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is made."""
        super().pause_writing()
        for longest in self._backlog.unsent(self, self.transport.get_write_buffer_size()):
            longest.end()

    def resume_writing(self) -> None:
        """It has read on."""
        self._resumed += 1
        self._backlog.sent(self)
        super().resume_writing()

    @property
    def unread_bytes(self) -> int:
        """What has arrived of bodies and waits for the application, those of requests that wait included."""
        return len(self.cycle.body) + sum(len(one.body) for one, _ in self.pipeline if one is not self.cycle)

    def shutdown(self) -> None:
        """The port has closed: the request under way is the last one, else the next, if it comes soon."""
        self._last = True
        if not self.idle:
            super().shutdown()
            return
        first_s = self._since + FIRST_S - self.loop.time() if self.scope is None else 0.0
        self.loop.call_later(max(LAST_S, first_s), super().shutdown)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too much of it, gets the service's own kind of error."""
        self.refuse(self._refusal or Problem(400, "this is not a valid HTTP request"))

    def _give_up(self, problem: Problem) -> NoReturn:
        """Ends the parser, which lets `send_400_response` answer."""
        self._refusal = problem
        raise ValueError(problem.code)

    def end(self) -> None:
        """Ends it at once. What the application still sends goes nowhere, and is no error."""
        self._disconnect()
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """Uvicorn says it to the newest request; the one that runs may have others waiting behind it."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def refuse(self, problem: Problem) -> None:
        """Answers without a request, and closes. Where another answer has begun it just ends."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.end()
            return
        headers, body = problem_parts(problem, new_request_id())
        headers += [CLOSE, (b"content-length", b"%d" % len(body))]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self.transport.close()

    def _make_room(self) -> bool:
        """Ends idle connections: first those that never sent anything, then those that wait longest.

        Without any it ends those whose answers have not been read for the longest time.
        """
        if self._backlog.all_busy:
            return False
        peers = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        going = [one for one in peers if one.idle and not one._probes_only]
        going.sort(key=lambda one: (one.scope is not None, one._since))
        going = going or self._backlog.stalled(STALLED_S)
        for one in going[: max(1, min(AT_ONCE, self._most // 8))]:
            self.connections.discard(one)
            one.end()
        self._backlog.all_busy = not going
        return bool(going)

    def _look_later(self, before: _State | None = None, unsent: int = 0, resumed: int = 0) -> None:
        self._looking = self.loop.call_later(PATIENCE_S, self._look, before, unsent, resumed)

    def _look(self, before: _State | None, unsent_before: int, resumed_before: int) -> None:
        """Ends what has not moved since the look before. A head has to arrive whole, a body to go on."""
        unsent = self.transport.get_write_buffer_size()
        moved = 0 if self.idle else self._allowance
        state = (self.cycle, moved, self.timeout_keep_alive_task is None)
        if 0 < unsent_before <= unsent and self._resumed == resumed_before:
            self.end()  # whatever else it may send: it does not read
        elif state == before or self.scope is None:
            self._unmoved()
        self._look_later(state, unsent, self._resumed)

    def _unmoved(self) -> None:
        if self.idle and (self.scope is None or self.transport.is_closing()):
            self.end()
        elif self.idle:
            if self.timeout_keep_alive_task is None:  # else it rests between two requests
                self.refuse(Problem(408, "the head did not arrive in time", code="head_timeout"))
        elif self.cycle.more_body and not self.cycle.response_started and not self.flow.read_paused:
            self.refuse(Problem(408, "the body stopped arriving"))


def _crowded() -> Problem:
    return Problem(503, "too many connections are busy", code="too_many_connections")
