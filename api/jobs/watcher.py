"""Waits for changes of jobs. A process polls Redis once per tick, however many requests wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from batcher.errors import MillraceError
from batcher.jobs.records import JobRecord

TICK_S = 0.25

Read = Callable[[Sequence[str]], Awaitable[list[JobRecord | None]]]


class JobWatch:
    """Serves the long polls and event streams of one process. `draining` ends all waits."""

    def __init__(self, read: Read, draining: Callable[[], bool]) -> None:
        self._read = read
        self._draining = draining
        self._waiting: dict[asyncio.Future[JobRecord | None], JobRecord] = {}
        self._polling: asyncio.Task[None] | None = None

    async def changed(self, record: JobRecord, timeout_s: float) -> JobRecord | None:
        """Waits until the version of a job changes, and returns its new record; None if it was deleted.

        A later job of the same id is another one. Returns the same record after `timeout_s`. Raises what
        `read` raises.
        """
        if record.ended or timeout_s <= 0 or self._draining():
            return record
        change: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting[change] = record
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(timeout_s):
                return await change
        except TimeoutError:
            return record
        finally:
            del self._waiting[change]

    async def stop(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def _poll(self) -> None:
        while self._waiting:
            await asyncio.sleep(TICK_S)
            ids = list({waiting.id for waiting in self._waiting.values()})
            try:
                records = dict(zip(ids, await self._read(ids), strict=True))
            except MillraceError as error:
                for change in self._waiting:
                    if not change.done():
                        change.set_exception(error)
                continue
            for change, waiting in self._waiting.items():
                if change.done() or waiting.id not in records:
                    continue
                record = records[waiting.id]
                if record is None or record.place != waiting.place:
                    change.set_result(None)
                elif record.version != waiting.version or self._draining():
                    change.set_result(record)
