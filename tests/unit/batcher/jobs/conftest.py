from __future__ import annotations

import pytest

from batcher.jobs import runner, worker
from tests.conftest import FakeRedis
from tests.unit.batcher.jobs.jobs_bench import Bench


@pytest.fixture
def bench(fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(worker, "SOONEST_S", 0.001)
    monkeypatch.setattr(worker, "POLL_S", 0.02)
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(worker, "LOOK_S", 0.05)
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr(runner, "ASIDE_S", 0.1)
    monkeypatch.setattr(runner, "PATIENCE_S", 0.1)
    return Bench(fake_redis.sync, monkeypatch)
