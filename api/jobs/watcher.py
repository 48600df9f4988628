"""Who waits for news of which job. However many wait, one process asks Redis once a tick."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from batcher.errors import MillraceError
from batcher.jobs.records import JobRecord

TICK_S = 0.25

Read = Callable[[Sequence[str]], Awaitable[list[JobRecord | None]]]


class JobWatch:
    """Long polls and event streams of one process. `read` gives records, `draining` ends all waits."""

    def __init__(self, read: Read, draining: Callable[[], bool]) -> None:
        self._read = read
        self._draining = draining
        self._waiting: dict[asyncio.Future[JobRecord | None], tuple[str, str]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def changed(self, record: JobRecord, timeout_s: float) -> JobRecord | None:
        """The record once its version differs, or as it was after `timeout_s`. None when the job is deleted.

        Raises what reading raises.
        """
        if record.ended or timeout_s <= 0 or self._draining():
            return record
        news: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting[news] = (record.id, record.version)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout_s):
                return await news
        except TimeoutError:
            return record
        finally:
            del self._waiting[news]

    async def stop(self) -> None:
        """Ends the loop."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(TICK_S)
            ids = list({job_id for job_id, _ in self._waiting.values()})
            try:
                records = dict(zip(ids, await self._read(ids), strict=True))
            except MillraceError as error:
                self._tell_all(error)
                continue
            for news, (job_id, version) in self._waiting.items():
                if news.done() or job_id not in records:
                    continue
                record = records[job_id]
                if record is None or record.version != version or self._draining():
                    news.set_result(record)

    def _tell_all(self, error: MillraceError) -> None:
        for news in self._waiting:
            if not news.done():
                news.set_exception(error)
