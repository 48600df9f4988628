"""Limits for connections: slow or stalled clients, and how many there are; and a graceful shutdown.

Uvicorn only closes connections that are idle between two requests. A client that never completes its request
head, stops in the middle of a body, or does not read the response would stay connected and hold memory. Here
each of these cases has a timeout or a size limit.

The number of connections is also limited. Beyond the limit, idle connections are closed, the oldest first,
then those whose response has been unread for longest. If neither exist, a few more connections are accepted,
for probes only.

Bodies that have not been read, and responses that have not been sent, are bounded for all connections of a
process together, too.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.asgi.http import CLOSE, LEFT, new_request_id
from api.asgi.problems import problem_parts
from api.errors import Problem
from api.lifecycle import LIFECYCLE, Lifecycle

# Connections beyond the limit that may only be used for probes.
RESERVE = 64
# After finding all connections busy, wait this long before searching again: a search visits all of them.
ALL_BUSY_S = 0.05
# The key under which connections find the shared backlog in the server's state.
BACKLOG = "backlog"
# The most bytes of bodies that have arrived but that the application has not read.
MAX_UNREAD_BYTES = 24 * 1024**2
# Summing up the unread bytes visits every connection that has some, so wait at least this long in between.
ADDED_UP_S = 0.01
# The most bytes of responses that the application has sent but that clients have not read.
MAX_UNSENT_BYTES = 32 * 1024**2


class Backlog:
    """Tracks the unread bodies, the unsent responses and the reserved connections of a process."""

    def __init__(self, unread_bytes: int = MAX_UNREAD_BYTES, unsent_bytes: int = MAX_UNSENT_BYTES) -> None:
        self._most_unread = unread_bytes
        self._most_unsent = unsent_bytes
        self._arrived = 0
        self._added_up_at = 0.0
        self._unread: set[LimitedProtocol] = set()
        self._unsent: dict[LimitedProtocol, tuple[int, float]] = {}
        self._unsent_bytes = 0
        self._reserve: dict[LimitedProtocol, None] = {}
        self._all_busy_until = 0.0

    @property
    def all_busy(self) -> bool:
        """Whether the last search, less than ALL_BUSY_S ago, found all connections busy."""
        return monotonic() < self._all_busy_until

    def searched(self, *, found: bool) -> None:
        """Notes whether a search has found a connection that is not busy."""
        self._all_busy_until = 0.0 if found else monotonic() + ALL_BUSY_S

    def reserve(self, peer: LimitedProtocol) -> list[LimitedProtocol]:
        """Adds a reserved connection. If there are too many, returns the oldest one, to be closed."""
        self._reserve[peer] = None
        if len(self._reserve) <= RESERVE:
            return []
        oldest = next(iter(self._reserve))
        del self._reserve[oldest]
        return [oldest]

    def unread(self, peer: LimitedProtocol, size: int) -> bool:
        """Notes that `size` bytes of a body have arrived. Returns False if they exceed the limit.

        The application does not report when it reads them, so the actual total is only computed once the
        bytes that have arrived exceed the limit.
        """
        self._unread.add(peer)
        self._arrived += size
        if self._arrived <= self._most_unread:
            return True
        now = monotonic()
        if now - self._added_up_at < ADDED_UP_S:
            return False
        self._added_up_at = now
        self._unread = {one for one in self._unread if one.unread_bytes}
        self._arrived = sum(one.unread_bytes for one in self._unread)
        return self._arrived <= self._most_unread

    def unsent(self, peer: LimitedProtocol, size: int) -> Iterator[LimitedProtocol]:
        """Notes that a client has `size` bytes of a response to read.

        Yields the connections to close while the total is above the limit, longest waiting first.
        """
        self.sent(peer)
        self._unsent[peer] = (size, monotonic())
        self._unsent_bytes += size
        while self._unsent_bytes > self._most_unsent:
            longest = next(iter(self._unsent))
            self.sent(longest)
            yield longest

    def sent(self, peer: LimitedProtocol) -> None:
        """Notes that the client has read most of its response."""
        size, _ = self._unsent.pop(peer, (0, 0.0))
        self._unsent_bytes -= size

    def stalled(self, seconds: float) -> list[LimitedProtocol]:
        """Connections whose response has been waiting for more than `seconds`, longest waiting first."""
        until = monotonic() - seconds
        return [peer for peer, (_, since) in self._unsent.items() if since < until]

    def forget(self, peer: LimitedProtocol) -> None:
        """Removes a closed connection."""
        self._unread.discard(peer)
        self._reserve.pop(peer, None)
        self.sent(peer)


# Interval between checks for progress. A stalled head, body or response ends after one to two intervals.
PATIENCE_S = 20.0
# The most bytes of a head, and of everything else outside bodies: white space, chunk sizes, trailers.
HEAD_BYTES = 64 * 1024
# A response that has been unread for this long may be dropped to make room for another connection.
STALLED_S = 2.0
# How many bytes of a response the transport buffers before the application must wait.
UNSENT_BYTES = 16 * 1024
# How many bytes the kernel takes that it cannot send yet. Without a limit it takes megabytes, and then asks
# for more only when a third of them is free: a client that reads slowly would seem to have stopped.
NOT_SENT_BYTES = 128 * 1024
# Close up to this many connections at once, so that not every new connection has to search for one to close.
AT_ONCE = 64
# Keep idle connections open for this long after the port has closed: a request may be on its way.
LAST_S = 0.5
# Keep a connection that has not sent a request yet open until this long after it was made.
FIRST_S = 3.0
# When to look again whether a client is there that sends nothing more, then after twice the time, and so on.
LOOK_S = 0.05
# Says that the client has sent its last byte, also while bytes before it are unread. Only Linux has it.
SENT_ALL = select.POLLRDHUP if sys.platform == "linux" else 0

# How long a client may pause while what it still sends is discarded, how often that is looked at, and how
# many bytes are discarded: more than a body of the largest size.
LINGER_S = 2.0
LINGER_LOOKS = 15
LINGER_BYTES = 96 * 1024**2
# What of a transport is used as it is.
_SAME = ("abort", "get_extra_info", "get_write_buffer_size", "pause_reading", "resume_reading", "write")

_State = tuple[object, int, bool]


class LingeringTransport:
    """A transport that `close` closes only for writing while its client may be sending (RFC 9112, 9.6).

    Unread bytes would turn the end of the connection into a reset, after which many clients do
    not read their answer. It refers to no protocol: that would be kept until garbage is collected.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        vars(self).update((name, getattr(transport, name)) for name in _SAME)
        self._transport = transport
        self._discarded = 0
        self.lingers = False

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Closes at once if it lingers already."""
        protocol: Any = self._transport.get_protocol()
        if self.is_closing() or not protocol.sending:
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._look(LINGER_LOOKS, -1)

    def discard(self, size: int) -> None:
        """Counts bytes that have arrived since."""
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self._transport.close()

    def _look(self, times: int, before: int) -> None:
        if not times or self._discarded == before:
            self._transport.close()
        elif not self._transport.is_closing():
            asyncio.get_running_loop().call_later(LINGER_S, self._look, times - 1, self._discarded)


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with these limits. `limit_concurrency` in its config limits the connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most = self.limit_concurrency or sys.maxsize
        self.limit_concurrency = None  # uvicorn would reject every new connection, including probes
        self._since = self.loop.time()
        self._allowance = HEAD_BYTES
        self._check: asyncio.TimerHandle | None = None
        self._lifecycle: Lifecycle | None = self.app_state.get(LIFECYCLE)
        self._backlog: Backlog = self.app_state.setdefault(BACKLOG, Backlog())
        self._last = False
        self._probes_only = False
        self._resumed = 0
        self._asked = False
        self._running: RequestResponseCycle | None = None
        self._refused = False
        self._ending: LingeringTransport

    @property
    def idle(self) -> bool:
        """Whether no request is being processed, although one may be arriving."""
        return self.cycle is None or self.cycle.response_complete or self._ending.lingers

    @property
    def sending(self) -> bool:
        """Whether the client may still be sending a request, which is not answered any more if this ends."""
        last = self.cycle
        begun = last is not None and (last.more_body or bool(self.pipeline) or last.scope is not self.scope)
        return begun or self._refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for this connection. If all others are busy, it may only be used for probes."""
        self._ending = LingeringTransport(transport)
        super().connection_made(self._ending)  # type: ignore[arg-type]
        transport.set_write_buffer_limits(UNSENT_BYTES)
        _limit_kernel_buffer(transport)
        if len(self.connections) > self._most and not self._make_room():
            self._probes_only = True
            for oldest in self._backlog.reserve(self):
                oldest.end()
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        self._backlog.forget(self)
        self._disconnect()
        if self._running is not None:  # which is kept with its body by what refers to this connection
            self._running.scope["state"][LEFT] = lambda: True
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called when the client reads the response too slowly."""
        super().pause_writing()
        for longest in self._backlog.unsent(self, self.transport.get_write_buffer_size()):
            longest.end()

    def resume_writing(self) -> None:
        """Called when the client has read on."""
        self._resumed += 1
        self._backlog.sent(self)
        super().resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called when the client sends nothing more. True keeps the connection until it has its answer."""
        if self.idle or self.cycle.more_body or not self._ask():
            return False
        self.cycle.keep_alive = False
        self._look()
        return True

    def left(self) -> bool:
        """Whether the client has left, as far as the system knows, even if bytes before that are unread."""
        if not self.transport.is_closing():
            look = select.poll()
            look.register(self.transport.get_extra_info("socket"), SENT_ALL)
            events = sum(found for _, found in look.poll(0))
            if events & (select.POLLERR | select.POLLHUP) or (events & SENT_ALL and not self._ask()):
                self.end()
        return self.transport.is_closing()

    def _look(self, pause_s: float = LOOK_S) -> None:
        if not self.idle and not self.left():
            self.loop.call_later(pause_s, self._look, 2 * pause_s)

    def _ask(self) -> bool:
        """Asks a client that sends nothing more whether it is there, by an interim response (RFC 9110, 15.2).

        Its system answers with a reset if it has left, also to the rest of a response that has been started.
        False if an interim response cannot be sent.
        """
        running = self._running
        if running is None or not (running.response_started or running.scope["http_version"] == "1.1"):
            return False
        if not self._asked and not running.response_started:
            self._asked = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    @property
    def unread_bytes(self) -> int:
        """Bytes of bodies that the application has not read, including those of pipelined requests."""
        return len(self.cycle.body) + sum(len(one.body) for one, _ in self.pipeline if one is not self.cycle)

    def shutdown(self) -> None:
        """Called when the port has closed. Ends after the current request, or after one that arrives soon."""
        self._last = True
        if not self.idle:
            super().shutdown()
            return
        first_s = self._since + FIRST_S - self.loop.time() if self.scope is None else 0.0
        self.loop.call_later(max(LAST_S, first_s), super().shutdown)

    def end(self) -> None:
        """Closes the connection at once. Anything that the application still sends is discarded."""
        self._disconnect()
        old = self.cycle is not None and self.cycle.scope["http_version"] == "1.0"
        if old and self.transport.get_write_buffer_size():
            end_by_reset(self.transport, True)  # what is lost must not look whole
        self.transport.abort()

    def _disconnect(self) -> None:
        """Reports a disconnect to the running request. Uvicorn reports it only to the newest one."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def refuse(self, problem: Problem) -> None:
        """Sends an error and closes the connection. If a response has been started, closes it at once."""
        running = self._running
        if running is not None and running.response_started and not running.response_complete:
            self.end()
            return
        self._refused = True
        headers, body = problem_parts(problem, new_request_id())
        headers += [CLOSE, (b"content-length", b"%d" % len(body))]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self._disconnect()
        self.transport.close()

    def _make_room(self) -> bool:
        """Closes idle connections: first those that never sent a request, then the oldest ones.

        If there are none, closes the connections whose responses have been unread for longest.
        """
        if self._backlog.all_busy:
            return False
        peers = [one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self]
        closing = [one for one in peers if one.idle and not one._probes_only]
        closing.sort(key=lambda one: (one.scope is not None, one._since))
        closing = closing or self._backlog.stalled(STALLED_S)
        for one in closing[: max(1, min(AT_ONCE, self._most // 8))]:
            self.connections.discard(one)
            one.end()
        self._backlog.searched(found=bool(closing))
        return bool(closing)

    def _check_later(self, before: _State | None = None, unsent: int = 0, resumed: int = 0) -> None:
        self._check = self.loop.call_later(PATIENCE_S, self._check_progress, before, unsent, resumed)

    def _check_progress(self, before: _State | None, unsent_before: int, resumed_before: int) -> None:
        """Ends the connection if it made no progress since the last check.

        A head must be complete by then; of a body or a response, it is enough that some bytes moved.
        """
        unsent = self.transport.get_write_buffer_size()
        progress = 0 if self.idle else self._allowance
        state = (self.cycle, progress, self.timeout_keep_alive_task is None)
        if 0 < unsent_before <= unsent and self._resumed == resumed_before:
            self.end()  # the client does not read, so an error response would not reach it either
        elif state == before or self.scope is None:
            self._stalled()
        self._check_later(state, unsent, self._resumed)

    def _stalled(self) -> None:
        if self.idle and (self.scope is None or self.transport.is_closing()):
            self.end()
        elif self.idle:
            if self.timeout_keep_alive_task is None:  # otherwise it is idle between two requests
                self.refuse(Problem(408, "the request head did not arrive in time", code="head_timeout"))
        elif self.cycle.more_body and not self.cycle.response_started and not self.flow.read_paused:
            self.refuse(Problem(408, "the body stopped arriving"))


def end_by_reset(transport: asyncio.Transport, reset: bool) -> None:
    """Whether the connection is to end by a reset, also if the process ends."""
    if connection := _tcp(transport):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))


def _tcp(transport: asyncio.Transport) -> socket.socket | None:
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return connection


def _limit_kernel_buffer(transport: asyncio.Transport) -> None:
    if connection := _tcp(transport):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
