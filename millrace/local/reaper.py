"""Stops all processes of `millrace up` once it ends, however it ends. Runs as its own process.

Run as a script: reaper.py LEASH ALIVE. The processes that `up` starts join the reaper's process group before
they execute. LEASH is a pipe that only `up` holds open, ALIVE one that all of them hold open. When LEASH is
closed, the remaining processes receive SIGTERM, and SIGKILL if they still run after a grace period.
"""

from __future__ import annotations

import os
import select
import signal
import sys

GRACE_S = 10.0


def main(leash: int, alive: int) -> None:
    """Waits for `up` to end, then ends every process of the group, including this one."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.read(leash, 1)
    if _ended(alive, 0):
        return
    os.killpg(0, signal.SIGTERM)
    os.killpg(0, signal.SIGCONT)
    if not _ended(alive, GRACE_S):
        os.killpg(0, signal.SIGKILL)


def _ended(pipe: int, timeout_s: float) -> bool:
    return bool(select.select([pipe], [], [], timeout_s)[0])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
