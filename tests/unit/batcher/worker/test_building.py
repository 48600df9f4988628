"""What a worker is made of."""

from __future__ import annotations

import pytest

from batcher.settings import WorkerSettings
from batcher.worker.building import build_worker
from batcher.worker.observability import Observability
from model_store.stub import StubClassifier

HERE, ELSEWHERE = "redis://127.0.0.1:1", "redis://127.0.0.1:2"


@pytest.mark.parametrize(("cache", "remembers"), [(None, True), (HERE, True), (ELSEWHERE, False)])
def test_the_queues_scripts_cache_only_if_the_cache_is_in_their_redis(
    cache: str | None, remembers: bool
) -> None:
    settings = WorkerSettings.model_validate({"redis_url": HERE, "cache_url": cache})
    made = build_worker(settings, Observability(StubClassifier(), settings), lambda results: None)
    queues = made.queues.commands, made.queues.waiting, made.queues.heartbeat
    assert [queue.remembers for queue in queues] == [remembers] * 3
    for queue in queues:
        queue.close()
