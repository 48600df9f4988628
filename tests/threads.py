"""Workers in threads of a test's process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack

from batcher.worker.loop import Worker


def run_worker(worker: Worker, stack: AsyncExitStack) -> None:
    """Starts the worker in a thread. When the stack is closed, stops it and waits for its end."""
    thread = threading.Thread(target=worker.run)
    thread.start()

    async def end() -> None:
        worker.stop()
        await asyncio.to_thread(thread.join)

    stack.push_async_callback(end)
