"""The commands that API processes run for the operator's console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from batcher.core.commands import Command
from batcher.core.pauses import Pause, Waiting, read_pauses
from batcher.messages import Lane

# How long refused texts are kept; the scripts keep their records for as long.
KEEP_REFUSED_MS = 7 * 86_400_000
# What is counted for each key and day. lua/usage.lua has the same names.
COUNTS = ("texts", "tokens", "requests", "hits", "errors")


@dataclass(frozen=True, slots=True)
class NoteRefused(Command[int]):
    """Adds the client to the record of a refused text, and the text unless it is None.

    Returns 1, or 0 if there is no such record.
    """

    script = "refused_note"
    id: str
    client: str
    text: str | None = None
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        text = "" if self.text is None else f"={self.text}"
        return [self.id, self.client, text, KEEP_REFUSED_MS]


@dataclass(frozen=True, slots=True)
class SetPause(Command[Mapping[str, Pause]]):
    """Pauses a lane for `for_ms`, or resumes it if `waiting` is "". Returns the pauses that hold now."""

    script = "pause"
    lane: Lane
    waiting: Waiting | Literal[""] = ""
    for_ms: int = 0
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        return [self.lane, self.waiting, self.for_ms]

    def read(self, reply: Any) -> Mapping[str, Pause]:
        return read_pauses(reply.decode())


class UsageRow(NamedTuple):
    """What was counted for the key `name` on one day (UTC), as 2026-01-31."""

    name: str
    day: str
    texts: int
    tokens: int
    requests: int
    hits: int
    errors: int


@dataclass(frozen=True, slots=True)
class AddUsage(Command[list[int]]):
    """Adds what a process has counted, and publishes its clients (JSON). Returns the texts of each row's day.

    Sent again with the same `number`, it adds nothing.
    """

    script = "usage"
    api: str
    number: int
    clients: str
    keep_ms: int
    rows: Sequence[UsageRow]
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        counts = [value for row in self.rows for value in row]
        return [self.api, self.number, self.clients, self.keep_ms, *counts]

    def read(self, reply: Any) -> list[int]:
        return [int(texts) for texts in reply]
