"""What a worker uses of its process. Tests pass substitutes, so that they need not wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass


def _thread(name: str) -> Executor:
    return ThreadPoolExecutor(1, thread_name_prefix=name)


def _daemon(name: str, work: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=work, name=name, daemon=True)


@dataclass(frozen=True, slots=True)
class Host:
    """The clock in seconds, events to wait for, threads by name, and the end of the process.

    A `thread` runs the calls submitted to it; a `daemon` is started once and does not keep the process alive.
    """

    now: Callable[[], float] = time.monotonic
    event: Callable[[], threading.Event] = threading.Event
    thread: Callable[[str], Executor] = _thread
    daemon: Callable[[str, Callable[[], None]], threading.Thread] = _daemon
    exit: Callable[[int], None] = os._exit
