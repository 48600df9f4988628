"""The commands that wake idle workers for entries that still wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batcher.core.commands import Command

# How long a shard remembers that another one needs help. It is reminded in time while that is so.
HELP_MS = 200


class Waking(NamedTuple):
    """How many workers are still idle: 0 if nothing waits, -1 if there was none to wake.

    Then the first entry has waited for `oldest_ms`.
    """

    idle: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Wake(Command[Waking]):
    """Wakes one more worker if entries wait."""

    script = "wake"
    ids: Sequence[str] = ()

    def read(self, reply: Any) -> Waking:
        return Waking(*map(int, reply))


@dataclass(frozen=True, slots=True)
class EndWait(Command[int]):
    """Ends the wait of one worker."""

    script = "end_wait"
    worker: str
    ids: Sequence[str] = ()

    def args(self) -> list[str]:
        return [self.worker]


@dataclass(frozen=True, slots=True)
class Lend(Command[int]):
    """Wakes a worker of this shard to help `shard`, where entries wait and all workers are busy.

    Returns how many are still idle, or -1 if there was none to wake: the next idle one is then asked.
    """

    script = "lend"
    shard: int
    oldest_ms: int
    ids: Sequence[str] = ()

    def args(self) -> list[int]:
        return [self.shard, self.oldest_ms, HELP_MS]
