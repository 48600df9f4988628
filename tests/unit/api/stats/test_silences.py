from __future__ import annotations

from dataclasses import replace

from api.stats.frames import Silences
from batcher.core.snapshot import WorkerRecord
from tests.unit.fakes import WORKER


def heard(**heartbeats: int) -> list[WorkerRecord]:
    return [replace(WORKER, id=name, heartbeat_ms=at_ms) for name, at_ms in heartbeats.items()]


def test_a_worker_without_heartbeats_is_silent_from_two_missing_ones_on() -> None:
    silences = Silences(2.0)
    assert silences.take(heard(w1=1000, w2=1100), 50.0) == [0.0, 0.0]
    assert silences.take(heard(w1=1000, w2=2100), 51.0) == [0.0, 0.0]
    assert silences.take(heard(w1=1000, w2=3100), 52.0) == [2.0, 0.0]
    assert silences.take(heard(w1=4000, w2=3100), 53.0) == [0.0, 0.0]


def test_a_worker_that_comes_back_begins_anew() -> None:
    silences = Silences(0.4)
    silences.take(heard(w1=1000), 1.0)
    assert silences.take([], 2.0) == []
    assert silences.take(heard(w1=1000), 3.0) == [0.0]
