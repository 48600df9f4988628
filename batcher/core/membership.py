"""The commands that concern a worker itself: its heartbeat, the entries that it returns, and its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batcher.core.commands import Command
from batcher.core.questions import Question, read_question


class HeartbeatReply(NamedTuple):
    """How many leases were extended, and the question that the console asks all workers."""

    extended: int
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class SendHeartbeat(Command[HeartbeatReply]):
    """Extends the leases of `ids` and renews the records of worker and model.

    With empty records, those of the last heartbeat are renewed; if Redis does not have them, -1 are extended.
    """

    script = "beat"
    worker: str
    lease_ms: int
    ttl_ms: int
    ids: Sequence[str]
    record: Mapping[str, Any]
    model: Mapping[str, Any]
    takeover: bool = False

    def args(self) -> list[Any]:
        args: list[Any] = [self.worker, self.lease_ms, self.ttl_ms, int(self.takeover)]
        for fields in (self.record, self.model):
            args += [len(fields), *(value for pair in fields.items() for value in pair)]
        return [*args, *self.ids]

    def read(self, reply: Any) -> HeartbeatReply:
        return HeartbeatReply(int(reply[0]), read_question(reply[1].decode()))


@dataclass(frozen=True, slots=True)
class Release(Command[int]):
    """Returns claimed entries to their lanes. Returns how many."""

    script = "release"
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Retire(Command[int]):
    """Removes a worker and ends the leases of `ids`, which then run alone on another worker."""

    script = "retire"
    worker: str
    ids: Sequence[str] = ()

    def args(self) -> list[str]:
        return [self.worker, *self.ids]
