"""The heartbeat: a worker does not outlive it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from batcher.worker.heartbeat import EXIT_HUNG, Heartbeat
from batcher.worker.queue import WorkerQueue
from tests.conftest import FakeRedis


def test_what_nobody_foresaw_in_a_beat_ends_the_process(
    fake_redis: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the thread would end unseen, and the worker go on claiming what others take from it."""
    queue = WorkerQueue(fake_redis.sync, "t", "w1", lease_ms=200, max_attempts=3, result_ms=1000)
    statuses: list[int] = []
    ended = threading.Event()
    records: list[Mapping[str, Any]] = [{"state": "idle"}]

    def exit_process(status: int) -> None:
        statuses.append(status)
        ended.set()

    heartbeat = Heartbeat(
        queue,
        lease_ms=40,
        batch_timeout_s=30,
        model={"name": "stub"},
        record=lambda: records.pop(),
        exit_process=exit_process,
    )
    heartbeat.start()
    assert ended.wait(10)
    heartbeat.stop()
    assert statuses == [EXIT_HUNG]
    (record,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.__dict__["action"] == "worker.heartbeat"
    assert "pop from empty list" in (record.exc_text or str(record.exc_info))
