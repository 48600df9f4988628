"""Shares round trips: what concurrent requests ask within one tick of the event loop travels together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Coalescer(Generic[Asked, Answer]):
    """Collects items and hands them to `send` in lists; `send` returns an answer or an exception for each.

    At most `flights` lists are under way; what arrives meanwhile waits and leaves together, at most `most`
    items whose sizes by `size` sum up to `most_size`: how long a round trip takes must not depend on how many
    ask at once. A larger item travels alone. The task that sends belongs to nobody's request, so a cancelled
    request cancels no command.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        *,
        flights: int = 2,
        most: int = 512,
        size: Callable[[Asked], int] = lambda item: 0,
        most_size: int = 0,
    ) -> None:
        self._send = send
        self._most = most
        self._size = size
        self._most_size = most_size
        self._free = flights
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, item: Asked) -> asyncio.Future[Answer]:
        """A future of the answer to `item`. Cancelling it drops the answer, not the command."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        self._depart()
        return future

    def _depart(self) -> None:
        """Another flight begins with the next tick, and takes along what is asked until then."""
        if self._waiting and self._free and not self._scheduled:
            self._scheduled = True
            task = asyncio.get_running_loop().create_task(self._fly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _fitting(self) -> int:
        """How many of those that wait travel together."""
        room = self._most_size
        for count, (item, _) in enumerate(self._waiting[: self._most]):
            room -= self._size(item)
            if room < 0:
                return max(count, 1)
        return min(len(self._waiting), self._most)

    async def _fly(self) -> None:
        self._scheduled = False
        count = self._fitting()
        load, self._waiting = self._waiting[:count], self._waiting[count:]
        self._free -= 1
        self._depart()
        try:
            answers = await self._send([item for item, _ in load])
        except Exception as error:
            answers = [error] * len(load)
        finally:
            self._free += 1
        for (_, future), answer in zip(load, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._depart()

    async def drain(self) -> None:
        """Waits until nothing is under way."""
        # A task leaves the set one tick after it ends, so only the unfinished ones are waited for: since
        # Python 3.12 waiting for finished ones gives the loop no tick, and the set would never empty.
        while unfinished := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(unfinished)
