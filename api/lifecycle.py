"""Where a process is in its life: serving, then draining from the first SIGTERM or Ctrl-C until it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from api.server.syn_filter import Door

log = logging.getLogger(__name__)

# From the shut door to the closed port, at least: who is inside has to be taken.
TAKE_S = 0.1
# So many times at most: where a door cannot be shut, others may follow without end.
TAKES = 20
# Under this key of the server's state connections find the lifecycle.
LIFECYCLE = "lifecycle"


class Lifecycle:
    """`draining` goes up first, so that /readyz says no before the port closes."""

    def __init__(
        self, *, catches_signals: bool = False, quiet_s: float = 0.0, door: Door | None = None
    ) -> None:
        self.draining = False
        self._catches_signals = catches_signals
        self._quiet_s = quiet_s
        self._door = door
        self._loops: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None

    def watch(self, loop: asyncio.Task[None]) -> asyncio.Task[None]:
        """A task that runs until it is cancelled: if it ends before, /livez fails, and the log says why."""
        self._loops.append(loop)
        loop.add_done_callback(self._ended)
        return loop

    def _ended(self, loop: asyncio.Task[None]) -> None:
        if loop.cancelled():
            self._loops.remove(loop)
        else:
            fields = {"action": "loop.ended", "loop": loop.get_name()}
            log.error("a loop has ended", exc_info=loop.exception(), extra=fields)

    @property
    def tasks_alive(self) -> bool:
        """False once a watched loop has ended."""
        return not any(loop.done() for loop in self._loops)

    def catch_signals(self) -> None:
        """Handles SIGTERM and SIGINT before the server does, if this instance catches signals.

        Readiness goes first; `quiet_s` later no new connection gets in, and the server stops. A second signal
        is passed on at once. Call it from the main thread, with the loop running and the server's handlers in
        place, as they are in a lifespan.
        """
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
            first, self.draining = not self.draining, True
            log.info("draining", extra={"action": "draining", "signal": signal.Signals(number).name})
            if first:
                loop.call_soon_threadsafe(begin, number)
            else:
                passed_on(number, frame)

        return handle

    async def _end(self, stop: Callable[[], None]) -> None:
        door = self._door
        await asyncio.sleep(self._quiet_s)
        if door is not None:
            door.shut()
        await asyncio.sleep(TAKE_S)
        for _ in range(TAKES):
            if door is None or not door.crowded():
                break
            await asyncio.sleep(TAKE_S)
        stop()
