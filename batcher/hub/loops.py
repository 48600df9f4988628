"""The background loops of a hub. One that ends by itself is a defect: /livez fails, and the log says why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Loops:
    """Tasks that run until `stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, **loops: Coroutine[Any, Any, None]) -> None:
        """Starts the loops, each in a task of that name."""
        for name, loop in loops.items():
            task = asyncio.create_task(loop, name=name)
            task.add_done_callback(_ended)
            self._tasks.append(task)

    @property
    def alive(self) -> bool:
        """False once a loop has ended unexpectedly."""
        return not any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        """Cancels all loops and waits for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        fields = {"action": "loop.ended", "loop": task.get_name()}
        log.error("a background task has ended", exc_info=task.exception(), extra=fields)
