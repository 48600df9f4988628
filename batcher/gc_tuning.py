"""Garbage collection in a process that serves for weeks."""

import gc

# New objects before a collection looks at them, and young collections before an older one. With Python's
# own 700 and 10 each batch is looked at several times over: nearly all of it ends by its reference counts.
_THRESHOLDS = (20_000, 20, 20)


def freeze_after_startup() -> None:
    """Once a process is ready: what is there by then stays, and no collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
