"""What a process reads of the whole queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batcher.core.snapshot import NO_SNAPSHOT, Sweep, WorkerRecord, Workers
from batcher.worker.stats import model_record
from model_store.stub import StubClassifier

INFO = StubClassifier().info


def test_a_snapshot_that_redis_has_lost_counts_nothing() -> None:
    lost = Sweep("api", 3).read([0, 2, b"7", [], [], [], b"1000"])
    assert lost == replace(NO_SNAPSHOT, recovered=2, cursor=b"7")


def labels_read(record: dict[str, Any]) -> tuple[str, ...]:
    flat = [str(part).encode() for pair in record.items() for part in pair]
    model = Sweep("api", 3).read([0, 2, b"7", [], flat, [], b"1000"]).model
    assert model is not None
    return model.labels


@pytest.mark.parametrize("labels", [("bad\nnews", "good"), ("\n", ""), ("a,b", '["c"]', "d\\n"), ("one",)])
def test_a_label_with_a_line_feed_does_not_shift_the_ids_of_the_others(labels: tuple[str, ...]) -> None:
    assert labels_read(model_record(replace(INFO, labels=labels))) == labels


def test_a_worker_of_0_2_0_takes_over_the_record_and_leaves_the_list_of_other_labels_there() -> None:
    record = model_record(replace(INFO, labels=("bad\nnews", "good")))
    assert labels_read(record | {"labels": "HAM\nSPAM"}) == ("HAM", "SPAM")
    del record["label_list"]
    assert labels_read(record | {"labels": "HAM\nSPAM"}) == ("HAM", "SPAM")


def test_a_worker_whose_record_cannot_be_read_is_left_out() -> None:
    fields = {
        "revision": "r", "engine": "torch", "precision": "f32", "state": "busy", "rate": "1.5",
        "batches": "4", "texts": "9", "last_batch": "3", "started_ms": "7",
    }  # fmt: skip
    records = {"a": fields, "b": fields | {"rate": "high"}, "c": {}}
    reply = [
        [name.encode(), [part.encode() for pair in record.items() for part in pair]]
        for name, record in records.items()
    ]
    known = WorkerRecord("a", "r", "torch", "f32", "busy", 1.5, 4, 9, 3, 7, heartbeat_ms=0)
    assert Workers().read(reply) == (known,)
