"""A process that outlives `millrace up` by a moment: whatever way that one ends, nothing it started stays.

Run as a plain script: reaper.py LEASH ALIVE. Every process of the mill is in the guard's process group, from
before its first instruction on. LEASH is a pipe that only `up` holds open, ALIVE one that all of them hold.
When LEASH ends, whoever is left is asked to stop, and what is still there after the grace is killed.
"""

from __future__ import annotations

import os
import select
import signal
import sys

GRACE_S = 10.0


def main(leash: int, alive: int) -> None:
    """Waits for the end of `up`, then clears its process group, this process last."""
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
