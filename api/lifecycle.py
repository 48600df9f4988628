"""Where a process is in its life: serving, then draining from the first SIGTERM or Ctrl-C until it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


class Phase:
    """`draining` goes up first, so that /readyz says no before the port closes."""

    def __init__(self) -> None:
        self.draining = False

    def catch_signals(self, quiet_s: float) -> None:
        """Puts itself before the server's handlers: readiness goes, `quiet_s` later the server stops.

        A second signal is passed on at once. Call it from the main thread, with the loop running and the
        server's own handlers in place (a lifespan is such a place).
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            passed_on = signal.getsignal(number)
            assert callable(passed_on)
            signal.signal(number, self._handler(loop, passed_on, quiet_s))

    def _handler(
        self,
        loop: asyncio.AbstractEventLoop,
        passed_on: Callable[[int, FrameType | None], Any],
        quiet_s: float,
    ) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            wait_s = 0.0 if self.draining else quiet_s
            self.draining = True
            log.info("draining", extra={"action": "draining", "signal": signal.Signals(number).name})
            if wait_s:
                loop.call_soon_threadsafe(loop.call_later, wait_s, passed_on, number, None)
            else:
                passed_on(number, frame)

        return handle
