"""Single keys from the terminal, for `millrace top`."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator

# How often the thread that reads checks whether it should end.
LOOK_S = 0.2


@contextlib.contextmanager
def reading(on_key: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_key` in a thread for each key, without waiting for Enter, while it is open.

    If the standard input is not a terminal, it never calls it.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    ended = threading.Event()
    thread = threading.Thread(target=_read, args=(descriptor, on_key, ended), name="keys", daemon=True)
    try:
        tty.setcbreak(descriptor)  # Ctrl-C still interrupts
        thread.start()
        yield
    finally:
        ended.set()
        thread.join()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read(descriptor: int, on_key: Callable[[str], None], ended: threading.Event) -> None:
    while not ended.is_set():
        if select.select([descriptor], [], [], LOOK_S)[0]:
            keys = os.read(descriptor, 64)
            if not keys:
                return
            for key in keys.decode("utf-8", "replace"):
                on_key(key)
