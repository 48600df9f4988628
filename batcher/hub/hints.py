"""The list to which workers push hints for one API process: an id and its result each."""

from __future__ import annotations

import asyncio

from batcher.core.pipeline import Pipeline

HINT_BLOCK_S = 1.0
HINTS_MOST = 64


class HintList:
    """Pops hints from the list `key`. Its pipeline is used for nothing else, because it blocks."""

    def __init__(self, pipeline: Pipeline, key: str) -> None:
        self._pipeline = pipeline
        self._key = key

    async def pop(self) -> list[tuple[str, bytes]]:
        """One round trip: waits for the first hint, and takes all others that are there by then.

        Returns ids and results; none after HINT_BLOCK_S without a hint. Raises REDIS_ERRORS.
        """
        first, others = await asyncio.gather(
            self._pipeline.execute("BLPOP", self._key, HINT_BLOCK_S),
            self._pipeline.execute("LPOP", self._key, HINTS_MOST),
        )
        lists = [*(first or [])[1:], *(others or [])]
        parts = [hint.partition(b"\n") for hints in lists for hint in hints.split(b"\0")]
        return [(entry_id.decode("ascii", "replace"), raw) for entry_id, _, raw in parts]

    async def close(self) -> None:
        await self._pipeline.close()
