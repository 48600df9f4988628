"""Garbage collection and freed memory of long-running processes."""

import ctypes
import gc

# With Python's default thresholds (700, 10, 10) the collector runs several times per batch and finds nearly
# nothing, because almost all objects are freed by reference counting.
_THRESHOLDS = (20_000, 20, 20)
# Blocks of this size and more get pages of their own; M_MMAP_THRESHOLD of malloc.h.
_LARGE = 256 * 1024
_M_MMAP_THRESHOLD = -3
# One for all threads, of which glibc otherwise makes eight for each processor; M_ARENA_MAX of malloc.h.
_M_ARENA_MAX = -8


def keep_large_blocks_apart() -> None:
    """Call this before models are loaded: what is large goes back to the system once it is freed.

    glibc does so with blocks of 128 KiB and more until the first of them is freed; then it puts blocks of
    that size among small ones, where others that are still used keep the memory from going back.
    """
    _set(_M_MMAP_THRESHOLD, _LARGE)


def share_one_arena() -> None:
    """Call this before threads start whose results other threads drop.

    What a thread has allocated and another one frees is used again only by the first.
    """
    _set(_M_ARENA_MAX, 1)


def _set(option: int, value: int) -> None:
    """Other C libraries than glibc have no such function."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(option, value)


def collect_rarely() -> None:
    """Call this before imports: collections take a tenth of their time, and find nothing."""
    gc.set_threshold(*_THRESHOLDS)


def freeze_after_startup() -> None:
    """Call this once a process is ready: objects that exist by then are never collected or scanned again."""
    gc.freeze()
    collect_rarely()


def collect_dropped() -> None:
    """Call this once something large has been dropped, such as a revision of a model.

    Its parts refer to each other, so only the collector frees them, and with these thresholds it looks at
    what has survived its first rounds after millions of new objects. What is free between blocks that are
    still used is given back to the system, so that the memory of a process does not grow with each revision.
    """
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # a function of glibc, which gives memory back only when it is asked to
