"""Looks for large objects that only garbage collection frees, because a reference cycle keeps them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import FrameType

# What counts as a part of a request or a job: parts of the frameworks are smaller.
LARGE = 15_000
# A buffer of the fake Redis, which an unknown script's error keeps.
READ_BYTES = 64 * 1024


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """What is made meanwhile is the youngest generation; the rest is what a process has imported."""
    gc.collect(1)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def large_garbage() -> list[str]:
    """The large objects among the youngest that only garbage refers to, and the frames that are garbage."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect(0)
        held = chain.from_iterable([one, *gc.get_referents(one)] for one in gc.garbage)
        large = {
            id(one): f"{type(one).__name__} of {sys.getsizeof(one)} bytes"
            for one in held
            if isinstance(one, bytes | bytearray | str | list | dict)
            and sys.getsizeof(one) > LARGE
            and not (isinstance(one, bytearray) and len(one) == READ_BYTES)
        }
        frames = {str(one.f_code) for one in gc.garbage if isinstance(one, FrameType)}
        return [*large.values(), *sorted(frames)] if large else []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
