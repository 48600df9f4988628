"""What this program calls itself, everywhere: its version, and the name of a process."""

from __future__ import annotations

import os
import socket
from importlib.metadata import PackageNotFoundError, version
from secrets import token_hex

DISTRIBUTION = "millrace-server"


def own_version() -> str:
    """A version such as 0.3.0 or 0.3.0.dev0, or "unknown" if the distribution is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def process_name() -> str:
    """A name that no other process has: its host, its number, and digits drawn at random."""
    return f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
