"""Another program that takes the memory of the card."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Takes all memory of the card until its input ends.
FULL = """
import sys, torch
taken = []
for size in (1 << 30, 1 << 24, 1 << 21):
    while True:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            break
print("full", flush=True)
sys.stdin.read()
"""


@contextmanager
def full_card() -> Iterator[None]:
    """Meanwhile, another program has all memory of the card that nothing holds yet."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # otherwise this process has enough
    with subprocess.Popen(
        [sys.executable, "-c", FULL], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        try:
            yield
        finally:
            process.kill()
