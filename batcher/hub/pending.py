"""An entry that requests of this process wait for."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from batcher.messages import Lane, Outcome


@dataclass(slots=True, eq=False)
class PendingEntry:
    """One entry that `waiting` requests of this process wait for. Errors are results of its future, too.

    Its result is polled at `look_at`, in case the hint was lost. The queue accepted it at `asked_at`. With
    `revision`, the queue reads the cached result of that revision first.
    """

    id: str
    text: str
    lane: Lane
    trace: str
    future: asyncio.Future[Outcome]
    deadline: float
    first: bool = False
    revision: str = ""
    waiting: int = 0
    asked_at: float = math.inf
    look_at: float = math.inf
