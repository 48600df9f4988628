"""The state of the whole service: the records that workers publish, and the sweep that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batcher.core.commands import Command
from batcher.memory import NO_MEMORY, Memory
from batcher.messages import BatchNote, decode_notes

SWEEP_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What ready workers publish about their model (`P:model`)."""

    name: str
    revision: str
    labels: tuple[str, ...]
    max_tokens: int
    engine: str
    precision: str


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a live worker publishes about itself (`P:worker:<id>`). `rate` is in tokens per second.

    `recent` contains its last batches, oldest first.
    """

    id: str
    revision: str
    engine: str
    precision: str
    state: str
    rate: float
    batches: int
    texts: int
    last_batch: int
    started_ms: int
    recent: tuple[BatchNote, ...] = ()
    arithmetic: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """The entries that wait in one lane, their estimated cost in tokens, the age of the first in ms."""

    entries: int
    cost: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the whole service at the time of a sweep. `cursor` is for the next sweep."""

    model: ModelRecord | None
    workers: tuple[WorkerRecord, ...]
    interactive: LaneDepth
    bulk: LaneDepth
    solo: int
    in_flight: int
    recovered: int
    memory: Memory = NO_MEMORY
    cursor: bytes = b"0"

    @property
    def rate(self) -> float:
        """Tokens per second of all live workers together; 0 if unknown."""
        return sum(worker.rate for worker in self.workers)


NO_SNAPSHOT = Snapshot(None, (), LaneDepth(0, 0, 0), LaneDepth(0, 0, 0), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Sweep(Command[Snapshot]):
    """Recovers entries of dead workers, and evicts some results whose keys begin with `cache`, if any.

    `cursor` is that of the last snapshot. While `memory` is full, nothing is cached.
    """

    script = "sweep"
    max_attempts: int
    cache: str = ""
    cursor: bytes = b"0"
    memory: Memory = NO_MEMORY
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        surplus = self.memory.surplus if self.cache else 0
        return [SWEEP_LIMIT, self.max_attempts, self.cache, surplus, self.cursor, int(self.memory.full)]

    def read(self, reply: Any) -> Snapshot:
        """Unreadable records of models and workers are left out."""
        recovered, _expired, interactive, bulk, solo, in_flight, model, workers, cursor = reply
        records = (
            _worker_record(name.decode("utf-8", "replace"), _pairs(fields)) for name, fields in workers
        )
        return Snapshot(
            model=_model_record(_pairs(model)),
            workers=tuple(record for record in records if record is not None),
            interactive=LaneDepth(*map(int, interactive)),
            bulk=LaneDepth(*map(int, bulk)),
            solo=int(solo),
            in_flight=int(in_flight),
            recovered=int(recovered),
            memory=self.memory,
            cursor=cursor,
        )


def _model_record(fields: Mapping[str, str]) -> ModelRecord | None:
    try:
        return ModelRecord(
            name=fields["name"],
            revision=fields["revision"],
            labels=tuple(fields["labels"].split("\n")),
            max_tokens=int(fields["max_tokens"]),
            engine=fields["engine"],
            precision=fields["precision"],
        )
    except (KeyError, ValueError):
        return None


def _worker_record(name: str, fields: Mapping[str, str]) -> WorkerRecord | None:
    try:
        return WorkerRecord(
            id=name,
            revision=fields["revision"],
            engine=fields["engine"],
            precision=fields["precision"],
            state=fields["state"],
            rate=float(fields["rate"]),
            batches=int(fields["batches"]),
            texts=int(fields["texts"]),
            last_batch=int(fields["last_batch"]),
            started_ms=int(fields["started_ms"]),
            recent=decode_notes(fields.get("recent", "")),
            arithmetic=fields.get("arithmetic", ""),
            fallback=fields.get("fallback", ""),
        )
    except (KeyError, ValueError):
        return None


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    text = [value.decode("utf-8", "replace") for value in flat]
    return dict(zip(text[::2], text[1::2], strict=False))
