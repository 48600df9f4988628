"""The state of the whole service: what workers publish, and the sweep that summarises it once a second.

Each shard has a snapshot, and `merge` makes one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter

from batcher.core.commands import Command, Question, read_question
from batcher.core.holds import Hold, Pause, merge_holds, merge_pauses, read_holds, read_pauses
from batcher.core.publications import NO_PUBLICATIONS, Publications, newest, read_publications
from batcher.core.redis_watch import NO_MEMORY, Memory
from batcher.messages import BatchNote, decode_notes
from batcher.models import read_listed

SWEEP_LIMIT = 200


def needs_s(tokens: int, measured: Sequence[tuple[int, float]]) -> float:
    """About how long one text of so many tokens takes, from that of other lengths; 0 with fewer than two."""
    if len(measured) < 2:
        return 0.0
    (few, short_s), (many, long_s) = measured[-2:]
    # Between linear, as most of a forward pass is, and quadratic, as attention is.
    growth = math.log(max(long_s, 1e-9) / max(short_s, 1e-9)) / math.log(many / few)
    return long_s * float((tokens / many) ** min(max(growth, 1.0), 2.0))


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What ready workers publish about their model (`P:model`).

    With `multi_label`, a text may have several labels, or none. `max_tokens` are read at once, and a text of
    `most_tokens` is read whole, in windows; 0 if the worker does not say. `long_s` has the seconds of single
    long texts by their tokens, as the last worker measured them when it started; none of models that read
    short ones only. `examples` are texts to try it with, if its card has any.
    """

    name: str
    revision: str
    labels: tuple[str, ...]
    max_tokens: int
    engine: str
    precision: str
    multi_label: bool = False
    most_tokens: int = 0
    long_s: tuple[tuple[int, float], ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The most tokens that a text may have without being cut."""
        return self.most_tokens or self.max_tokens


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
    recent: Annotated[tuple[BatchNote, ...], PlainValidator(decode_notes)] = ()
    arithmetic: str = ""
    fallback: str = ""
    # When its last heartbeat arrived, by the queue's clock.
    heartbeat_ms: int = 0


_MODEL = TypeAdapter(ModelRecord)
_WORKER = TypeAdapter(WorkerRecord)


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """The entries that wait in one lane, their estimated cost in tokens, the age of the first in ms."""

    entries: int
    cost: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """How many workers use a fallback engine or precision, and the reason that the first of them gives."""

    workers: int
    worker: str
    engine: str
    precision: str
    arithmetic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the whole service at the time of a sweep (`P:snapshot` and `P:model`).

    `workers` are the live ones and `rate` their tokens per second together. `worked` counts the texts that
    workers have classified. The rest concerns only the process that reads it: whether it has `swept` itself,
    how many entries it `recovered`, and the `cursor` of its next sweep. `forgotten` counts the times that an
    operator has removed cached results; `pauses` are those of lanes, and `holds` those of clients. `models`
    are the names of all models but the first, whose queue this is, and `publications` what operators
    published. `question` is what the console asked last. `guests` and `guest_rate` are those of workers that
    live at another shard, which does not answer them. `model_since` is the time in milliseconds at which a
    worker made `model` the current one: 0 if that is not known, and -1 if no worker of this shard renews it.
    `revisions` are those of the workers that live at this shard.
    """

    model: ModelRecord | None
    workers: int
    rate: float
    interactive: LaneDepth
    bulk: LaneDepth
    solo: int
    in_flight: int
    worked: int = 0
    fallback: Fallback | None = None
    memory: Memory = NO_MEMORY
    swept: bool = False
    recovered: int = 0
    cursor: bytes = b"0"
    forgotten: int = 0
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    models: Sequence[str] = ()
    question: Question | None = None
    publications: Publications = NO_PUBLICATIONS
    guests: int = 0
    guest_rate: float = 0.0
    model_since: int = -1
    revisions: Collection[str] = ()


NO_DEPTH = LaneDepth(0, 0, 0)
# Its fields that are whole numbers in Redis, too.
_COUNTS = ("workers", "guests", "solo", "in_flight", "worked", "forgotten")
NO_SNAPSHOT = Snapshot(None, 0, 0.0, NO_DEPTH, NO_DEPTH, 0, 0)


@dataclass(frozen=True, slots=True)
class Sweep(Command[Snapshot]):
    """Recovers entries of dead workers, and evicts some results whose keys begin with `cache`, if any.

    If another `api` sweeps already, this only reads its snapshot. `cursor` is that of the last snapshot.
    While `memory` is full, nothing is cached.
    """

    script = "sweep"
    api: str
    max_attempts: int
    cache: str = ""
    cursor: bytes = b"0"
    memory: Memory = NO_MEMORY

    def args(self) -> list[Any]:
        memory = self.memory
        surplus = memory.surplus if self.cache else 0
        eviction = [self.cache, surplus, self.cursor, int(memory.full)]
        return [self.api, SWEEP_LIMIT, self.max_attempts, *eviction, memory.used, memory.limit]

    def read(self, reply: Any) -> Snapshot:
        """An unreadable record of the model is left out."""
        swept, recovered, cursor, flat, model, publications, redis_s = reply
        fields = _pairs(flat)
        counts = {name: int(fields.get(name, 0)) for name in _COUNTS}
        return Snapshot(
            model=_model_record(_pairs(model)),
            rate=float(fields.get("rate", 0)),
            guest_rate=float(fields.get("guest_rate", 0)),
            model_since=int(fields.get("model_since", -1)),
            revisions=tuple(fields.get("revisions", "").split()),
            interactive=_depth(fields.get("interactive", "")),
            bulk=_depth(fields.get("bulk", "")),
            fallback=_fallback(int(fields.get("fallen", 0)), fields.get("first_fallen", "")),
            memory=Memory(int(fields.get("memory", 0)), int(fields.get("memory_limit", 0))),
            swept=bool(swept),
            recovered=int(recovered),
            cursor=cursor,
            pauses=read_pauses(fields.get("pauses", "")),
            holds=read_holds(fields, int(redis_s)),
            models=read_listed(fields),
            question=read_question(fields.get("asked", "")),
            publications=read_publications(_pairs(publications)) if publications else NO_PUBLICATIONS,
            **counts,
        )


@dataclass(frozen=True, slots=True)
class Workers(Command[tuple[WorkerRecord, ...]]):
    """Reads the records of all live workers. Unreadable ones are left out."""

    script = "workers"

    def read(self, reply: Any) -> tuple[WorkerRecord, ...]:
        records = (_worker_record(name.decode("utf-8", "replace"), _pairs(fields)) for name, fields in reply)
        return tuple(record for record in records if record is not None)


def _depth(text: str) -> LaneDepth:
    return LaneDepth(*map(int, text.split())) if text else NO_DEPTH


def _fallback(workers: int, first: str) -> Fallback | None:
    return Fallback(workers, *first.split("\n", 4)) if workers else None


def _model_record(fields: dict[str, str]) -> ModelRecord | None:
    try:
        labels = _labels(fields["labels"], fields.get("label_list", "null"))
        listed = {name: json.loads(fields.get(name, "[]")) for name in ("long_s", "examples")}
        return _MODEL.validate_python({**fields, "labels": labels, **listed})
    except (KeyError, ValueError):
        return None


def _labels(joined: str, listed: str) -> tuple[str, ...]:
    """The labels of a model. Workers of 0.2.0 write only the joined ones, beside a list of others perhaps."""
    labels = json.loads(listed)
    if isinstance(labels, list) and "\n".join(map(str, labels)) == joined:
        return tuple(map(str, labels))
    return tuple(joined.split("\n"))


def _worker_record(name: str, fields: dict[str, str]) -> WorkerRecord | None:
    try:
        heartbeat_ms = int(float(fields.get("beaten", 0)))
        return _WORKER.validate_python({**fields, "id": name, "heartbeat_ms": heartbeat_ms})
    except ValueError:
        return None


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    text = [value.decode("utf-8", "replace") for value in flat]
    return dict(zip(text[::2], text[1::2], strict=False))


_SUMMED = ("workers", "solo", "in_flight", "worked", "recovered", "forgotten")


def merge(shards: Sequence[Snapshot]) -> Snapshot:
    """The sums over the snapshots of all shards. Ages are the oldest, and memory that of the fullest.

    The model is the one that a worker made the current one last, where it is renewed: at other shards,
    workers of a former model may have renewed theirs since. `swept` is that of the first shard: one process
    keeps the history of the service.
    """
    known = [shard for shard in shards if shard.model is not None]
    counts = {name: sum(getattr(shard, name) for shard in shards) for name in _SUMMED}
    return Snapshot(
        model=max(known, key=lambda shard: shard.model_since).model if known else None,
        rate=sum(shard.rate for shard in shards),
        interactive=_summed([shard.interactive for shard in shards]),
        bulk=_summed([shard.bulk for shard in shards]),
        fallback=_fallbacks([shard.fallback for shard in shards if shard.fallback is not None]),
        memory=max((shard.memory for shard in shards), key=lambda memory: memory.share),
        swept=shards[0].swept,
        pauses=merge_pauses(shard.pauses for shard in shards),
        holds=merge_holds(shard.holds for shard in shards),
        publications=newest(shard.publications for shard in shards),
        models=sorted({name for shard in shards for name in shard.models}),
        question=next((shard.question for shard in shards if shard.question is not None), None),
        **counts,
    )


def _summed(depths: Sequence[LaneDepth]) -> LaneDepth:
    entries = sum(depth.entries for depth in depths)
    cost = sum(depth.cost for depth in depths)
    return LaneDepth(entries, cost, max(depth.oldest_ms for depth in depths))


def _fallbacks(fallbacks: Sequence[Fallback]) -> Fallback | None:
    if not fallbacks:
        return None
    return replace(fallbacks[0], workers=sum(fallback.workers for fallback in fallbacks))
