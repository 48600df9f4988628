"""An event loop whose time is not that of the machine: it jumps to the next timer when nothing is ready.

Callbacks that are ready keep their order, which asyncio promises and the product may count on. Chance enters
with the times at which data arrives, timers end and threads go on: see `network` and `threads`. The package
looptime does the same as these lines, but knows neither threads nor a network.
"""

from __future__ import annotations

import asyncio
import selectors


class _Jump(selectors.DefaultSelector):
    """Waits for no file: the time for which it should wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all threads wait, and nothing is left to happen"
        self.time += max(timeout, 0.0)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`errors`: what reached the loop's handler, which would only have been logged."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.errors: list[str] = []
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        return self._jump.time

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")
