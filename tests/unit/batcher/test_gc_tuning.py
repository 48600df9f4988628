"""Memory of what was dropped, such as a revision of a model, goes back to the system."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batcher.gc_tuning import collect_dropped
from benchmarks.memory import resident_mib

glibc = pytest.mark.skipif(
    not (Path("/proc/self/statm").exists() and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="only glibc on Linux keeps freed memory until it is asked to give it back",
)


# What is dropped is one MiB each; the first block that is freed raises the threshold of glibc.
LARGE = """
import os
from batcher.gc_tuning import keep_large_blocks_apart
from benchmarks.memory import resident_mib
keep_large_blocks_apart()
first = b"a" * (8 << 20)
del first
dropped, kept = [], []
for number in range(50):
    dropped.append(b"a" * ((1 << 20) + number))
    kept.append(b"a" * (2_000 + number))
before = resident_mib(os.getpid())
dropped.clear()
print(before - resident_mib(os.getpid()))
"""


COLLECTED = """
import gc
from millrace.__main__ import main
before = gc.get_stats()
main(["api", "--port", "-1"])
print(sum(after["collections"] - old["collections"] for after, old in zip(gc.get_stats(), before)))
"""


def test_a_start_collected_garbage_a_hundred_times() -> None:
    """Until the settings of the API are read, and it finds that there is no such port."""
    printed = subprocess.run([sys.executable, "-c", COLLECTED], check=True, capture_output=True, text=True)
    assert int(printed.stdout) < 10


@glibc
def test_finding_48_large_blocks_of_a_worker_go_back_when_they_are_freed() -> None:
    printed = subprocess.run([sys.executable, "-c", LARGE], check=True, capture_output=True, text=True)
    assert float(printed.stdout) > 45


@glibc
def test_finding_48_a_worker_kept_more_memory_with_each_revision_that_it_had_dropped() -> None:
    dropped: list[object] = []
    kept: list[bytes] = []
    for number in range(1000):  # below the 128 KiB from which glibc gives each block back by itself
        dropped.append(b"a" * (100_000 + number))
        kept.append(b"a" * (2_000 + number))
    dropped.append(dropped)
    del dropped
    before = resident_mib(os.getpid())
    collect_dropped()
    assert before - resident_mib(os.getpid()) > 80
    assert len(kept) == 1000
