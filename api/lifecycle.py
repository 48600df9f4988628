"""The lifecycle of a process: it serves, then drains from the first SIGTERM or Ctrl-C until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import select
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from types import FrameType
from typing import Any

_SO_ATTACH_FILTER = 26
# A classic BPF program for packets that arrive at the port, starting at the TCP header.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the TCP flags
        (0x45, 0, 1, 0x02),  # if SYN is not set, skip one instruction
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # accept
    )
)
log = logging.getLogger(__name__)
# Wait at least this long after dropping new connections, so that the server can accept the pending ones.
TAKE_S = 0.1
# Wait at most this many times: where new connections cannot be dropped, the backlog may never be empty.
TAKES = 20
# The key under which connections find the lifecycle in the server's state.
LIFECYCLE = "lifecycle"


class SynFilter:
    """Filters new connections to a listening socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def drop_new(self) -> None:
        """Drops new SYN packets. Handshakes that have begun are completed.

        Clients retransmit after about a second and reach either a closed port or the new process. This does
        nothing on systems other than Linux, or where filters are not permitted.
        """
        if sys.platform == "linux":
            code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
            program = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(code))
            with contextlib.suppress(OSError):
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def backlog_waiting(self) -> bool:
        """Whether the accept backlog holds connections that the server has not accepted yet."""
        if self._listener.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))


class Lifecycle:
    """`draining` is set first, so that /readyz fails before the port closes.

    `started` says whether the lifespan of the application has begun.
    """

    def __init__(
        self, *, catches_signals: bool = False, quiet_s: float = 0.0, syn_filter: SynFilter | None = None
    ) -> None:
        self.draining = self.started = False
        self._catches_signals = catches_signals
        self._quiet_s = quiet_s
        self._syn_filter = syn_filter
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
        """Runs a task while it is open, and cancels it then. If the task ends before that, /livez fails."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._tasks.remove(task)
        else:
            fields = {"action": "loop.ended", "loop": task.get_name()}
            log.error("a background task has ended", exc_info=task.exception(), extra=fields)

    @property
    def tasks_alive(self) -> bool:
        """False once a watched task has ended."""
        return not any(task.done() for task in self._tasks)

    def start(self) -> None:
        """Handles SIGTERM and SIGINT before the server does from now on, if this instance catches signals.

        The process stops being ready at once. After `quiet_s`, new connections are dropped and the server
        stops. A second signal is passed on at once. Call this from the main thread, while the loop is running
        and the server's handlers are installed, as in a lifespan.
        """
        self.started = True
        if not self._catches_signals:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            passed_on = signal.getsignal(number)
            assert callable(passed_on)
            signal.signal(number, self._handler(loop, passed_on))

    def _handler(
        self, loop: asyncio.AbstractEventLoop, passed_on: Callable[[int, FrameType | None], Any]
    ) -> Callable[[int, FrameType | None], None]:
        def begin(number: int) -> None:
            self._ending = loop.create_task(self._end(lambda: passed_on(number, None)))

        def handle(number: int, frame: FrameType | None) -> None:
            first = not self.draining
            self.draining = True
            log.info("draining", extra={"action": "draining", "signal": signal.Signals(number).name})
            if first:
                loop.call_soon_threadsafe(begin, number)
            else:
                passed_on(number, frame)

        return handle

    async def _end(self, stop: Callable[[], None]) -> None:
        syn_filter = self._syn_filter
        await asyncio.sleep(self._quiet_s)
        if syn_filter is not None:
            syn_filter.drop_new()
        await asyncio.sleep(TAKE_S)
        for _ in range(TAKES):
            if syn_filter is None or not syn_filter.backlog_waiting():
                break
            await asyncio.sleep(TAKE_S)
        stop()
