"""How a process of pytest-xdist ended that crashed: pytest-xdist itself says only that it did.

Without a traceback above it, which Python writes for most signals, it was killed: often for want of memory.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from pathlib import Path

import psutil

from tests.limits import MIB

# Where Linux counts what it has done with memory since it started.
MEMORY_COUNTS = Path("/proc/vmstat")
ENDS_WITHIN_S = 5.0


def ending(process: subprocess.Popen[bytes], counts: Path = MEMORY_COUNTS) -> str:
    """The exit status or signal of a process that is ending, and what is known of the memory."""
    try:
        status = process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        how = "closed its connection and still runs"
    else:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    free = psutil.virtual_memory().available // MIB
    try:
        kills = dict(line.split() for line in counts.read_text().splitlines()).get("oom_kill", "unknown")
    except OSError:
        kills = "unknown"
    return (
        f"The process {how}. {free} MiB of memory are available now, the largest process that has ended used "
        f"{largest} MiB. Processes that Linux has killed for want of memory: {kills}"
    )
