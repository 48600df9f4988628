"""How results leave a worker: what becomes of their leases."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from batcher.core.outage import Outage
from batcher.messages import Prediction
from batcher.worker.queue import WorkerQueue
from batcher.worker.results import ResultSender
from tests.conftest import FakeRedis

RESULTS = [("x", Prediction(b"[]", "rev", 1)), ("y", Prediction(b"[]", "rev", 1))]


class Leases:
    """Stands for the heartbeat."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def drop(self, ids: Any) -> None:
        self.dropped += ids


@pytest.mark.parametrize("what", ["taken", "not taken", "not foreseen"])
def test_finding_10_no_lease_is_kept_for_results_whether_they_could_be_sent_or_not(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """An error that nobody had foreseen kept them for ever: other workers never got these texts."""
    queue = WorkerQueue(fake_redis.sync, "t", "w", lease_ms=200, max_attempts=3, result_ms=1000)
    errors = {"not taken": redis.exceptions.TimeoutError(), "not foreseen": ZeroDivisionError()}

    def complete(results: Any, idle: bool = False) -> int:
        list(results)
        if what in errors:
            raise errors[what]
        return 2

    monkeypatch.setattr(queue, "complete", complete)
    leases, stopping = Leases(), threading.Event()
    stopping.set()  # one try must do
    delivery = ResultSender(queue, leases, Outage(), lambda results: None, stopping)  # type: ignore[arg-type]
    if what == "not foreseen":
        with pytest.raises(ZeroDivisionError):
            delivery.send(RESULTS)
    else:
        delivery.send(RESULTS)
    assert leases.dropped == ["x", "y"]
