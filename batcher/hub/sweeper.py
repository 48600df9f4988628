"""The once-a-second look at the whole queue: a sweep, or the snapshot of the process that sweeps."""

from __future__ import annotations

from batcher.core.formats import OtherFormats
from batcher.core.outage import REDIS_ERRORS, refused
from batcher.core.pipeline import Pipeline
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot, Sweep
from batcher.memory import read_memory


class Sweeper:
    """Sweeps for the process `api`, and warns once it is connected if there are workers of `others`.

    `cache`: the prefix of cached results that it may evict, if any.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        api: str,
        max_attempts: int,
        cache: str,
        others: OtherFormats | None = None,
    ) -> None:
        self.redis_watch = RedisWatch()
        self._others = others or OtherFormats()
        self._pipeline = pipeline
        self._api, self._max_attempts, self._cache = api, max_attempts, cache
        self._last = NO_SNAPSHOT

    async def sweep(self, connected: bool) -> Snapshot:
        """Sweeps, or reads the snapshot if another process sweeps. Raises REDIS_ERRORS.

        Only the process that sweeps, or was not `connected` until now, asks Redis about its memory.
        """
        info = await self._info("memory") if self._last.swept or not connected else b""
        sweep = Sweep(self._api, self._max_attempts, self._cache, self._last.cursor, read_memory(info))
        self._last = await self._pipeline.run(sweep)
        if not connected:
            self.redis_watch.look(info, await self._info("stats"))
            await self._others.look(self._pipeline)
        return self._last

    async def _info(self, section: str) -> object:
        try:
            return await self._pipeline.execute("INFO", section)
        except REDIS_ERRORS as error:
            if not refused(error):
                raise
            return b""  # not every Redis user may read it
