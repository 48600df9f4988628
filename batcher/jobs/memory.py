"""How much memory the texts and results of jobs may take that one process works on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from sys import getsizeof

from batcher.jobs.upload import result_bytes

# For the small jobs of a process, and as much for the large ones; docs/capacity.md adds it up.
HELD_BYTES = 64 * 1024**2


class ChunkMemory:
    """The memory of the chunks that attempts have read and not passed on: `most` bytes, and one chunk more.

    Chunks are read one at a time, first come, first served. So an attempt that reads its chunks in order has
    the first of them, and goes on.
    """

    def __init__(self, most: int = HELD_BYTES) -> None:
        self.held = 0
        self._most = most
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until a chunk may be read, whose size `take` counts before the end of the turn."""
        async with self._turn:
            while self.held >= self._most:
                self._freed.clear()
                await self._freed.wait()
            yield

    def take(self, size: int) -> None:
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
        self._freed.set()


def memory_of(texts: Sequence[str | None], labels: Sequence[str]) -> int:
    """The bytes that a chunk takes at most, with its results."""
    return sum(map(getsizeof, texts)) + len(texts) * result_bytes(labels)
