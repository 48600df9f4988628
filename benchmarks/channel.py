"""A separate pipe from a child process to its parent, for lines of JSON.

Standard output is left to people: whatever a library prints there, a progress bar for example, is never taken
for a result.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

# The number of the descriptor that the child writes to.
VARIABLE = "BENCHMARK_CHANNEL"


@contextmanager
def child_with_channel(
    command: Sequence[str], env: Mapping[str, str] | None = None, **popen: Any
) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """Starts a command and gives it and the reading end of its pipe. At the end the child is waited for.

    The child is never killed: it may be building a model that the next run needs.
    """
    reading, writing = os.pipe()
    variables = {**os.environ, **(env or {}), VARIABLE: str(writing)}
    with os.fdopen(reading) as messages:
        try:
            child = subprocess.Popen(command, env=variables, pass_fds=[writing], text=True, **popen)
        finally:
            os.close(writing)
        with child:
            yield child, messages


def run_with_channel(command: Sequence[str]) -> tuple[int, list[dict[str, Any]]]:
    """Runs a command to its end: its exit status and every message that it sent."""
    with child_with_channel(command) as (child, messages):
        received = [json.loads(line) for line in messages]
    return child.returncode, received


class Sender:
    """The writing end in the child. Sends nothing where no parent listens."""

    def __init__(self) -> None:
        number = os.environ.pop(VARIABLE, None)  # not for the children of this process
        self._out = os.fdopen(int(number), "w") if number else None

    def send(self, message: Any) -> None:
        """One line of JSON, at once."""
        if self._out is not None:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()
