"""Garbage collection settings for long-running processes."""

import gc

# With Python's default thresholds (700, 10, 10) the collector runs several times per batch and finds nearly
# nothing, because almost all objects are freed by reference counting.
_THRESHOLDS = (20_000, 20, 20)


def freeze_after_startup() -> None:
    """Call this once a process is ready: objects that exist by then are never collected or scanned again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def collect_dropped() -> None:
    """Call this once something large has been dropped, such as a revision of a model.

    Its parts refer to each other, so only the collector frees them, and with these thresholds it looks at
    what has survived its first rounds after millions of new objects.
    """
    gc.collect()
