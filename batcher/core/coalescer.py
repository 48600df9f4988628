"""Shares round trips: items submitted within one tick of the event loop are sent together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Collects items and passes them to `send` in batches; `send` returns an answer or an exception for each.

    At most `max_in_flight` batches are sent at a time. Items that arrive meanwhile form the next batch, which
    is limited to `max_items` items and a total size of `max_size`, so that a round trip does not take longer
    the more requests there are. A larger item is sent alone. Batches are sent in their own tasks, so a
    cancelled request never cancels a command.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_in_flight: int = 2,
        max_items: int = 512,
        size: Callable[[Item], int] = lambda item: 0,
        max_size: int = 0,
    ) -> None:
        self._send = send
        self._max_items = max_items
        self._size = size
        self._max_size = max_size
        self._free_slots = max_in_flight
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, item: Item) -> asyncio.Future[Answer]:
        """Returns a future of the answer to `item`. Cancelling it drops the answer, not the command."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        self._schedule()
        return future

    def _schedule(self) -> None:
        """Sends a batch on the next tick, with everything that is submitted until then."""
        if self._waiting and self._free_slots and not self._scheduled:
            self._scheduled = True
            task = asyncio.get_running_loop().create_task(self._send_batch())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _fitting(self) -> int:
        """How many of the waiting items fit into one batch."""
        room = self._max_size
        for count, (item, _) in enumerate(self._waiting[: self._max_items]):
            room -= self._size(item)
            if room < 0:
                return max(count, 1)
        return min(len(self._waiting), self._max_items)

    async def _send_batch(self) -> None:
        self._scheduled = False
        count = self._fitting()
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._free_slots -= 1
        self._schedule()
        try:
            answers = await self._send([item for item, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        finally:
            self._free_slots += 1
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._schedule()

    async def drain(self) -> None:
        """Waits until every batch has been sent and answered."""
        # A finished task leaves the set one tick later. Since Python 3.12, waiting for finished tasks does
        # not yield to the event loop, so the set would never become empty: wait for unfinished tasks only.
        while unfinished := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(unfinished)
