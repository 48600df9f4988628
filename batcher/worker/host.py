"""What a worker uses of its process. Tests pass substitutes, so that nothing waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass


def _thread(name: str) -> Executor:
    return ThreadPoolExecutor(1, thread_name_prefix=name)


@dataclass(frozen=True, slots=True)
class Host:
    """The clock in seconds, events to wait for, and threads by name."""

    now: Callable[[], float] = time.monotonic
    event: Callable[[], threading.Event] = threading.Event
    thread: Callable[[str], Executor] = _thread
