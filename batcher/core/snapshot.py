"""Reads the reply of sweep.lua as a Snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batcher.memory import Memory
from batcher.messages import LaneDepth, ModelRecord, Snapshot, WorkerRecord, decode_notes


def read_snapshot(answer: Sequence[Any], memory: Memory) -> Snapshot:
    """The state of the queue. Unreadable records of models and workers are left out."""
    recovered, _expired, interactive, bulk, solo, in_flight, model, workers = answer
    records = (_worker_record(name.decode("utf-8", "replace"), _pairs(fields)) for name, fields in workers)
    return Snapshot(
        model=_model_record(_pairs(model)),
        workers=tuple(record for record in records if record is not None),
        interactive=LaneDepth(*map(int, interactive)),
        bulk=LaneDepth(*map(int, bulk)),
        solo=int(solo),
        in_flight=int(in_flight),
        recovered=int(recovered),
        memory=memory,
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
