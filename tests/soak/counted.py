"""`python -m tests.soak.counted FILE COMMAND...`: `millrace COMMAND`, its number of asyncio tasks in a file.

A process does not report how many tasks its event loop has, so a thread counts them every `EVERY_S` seconds.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import uvloop

from millrace.__main__ import main

EVERY_S = 1.0


def count(loop: asyncio.AbstractEventLoop, file: Path) -> None:
    while True:
        file.write_text(str(len(asyncio.all_tasks(loop))))
        time.sleep(EVERY_S)


def count_in(file: Path) -> None:
    """From now on, the tasks of each new event loop are counted; the API has one."""
    make = uvloop.new_event_loop

    def made() -> asyncio.AbstractEventLoop:
        loop = make()
        threading.Thread(target=count, args=[loop, file], name="count", daemon=True).start()
        return loop

    uvloop.new_event_loop = made


if __name__ == "__main__":
    count_in(Path(sys.argv.pop(1)))
    sys.exit(main())
