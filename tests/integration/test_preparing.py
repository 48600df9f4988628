"""While a worker loads a model, `GET /admin/models` shows what it is doing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from batcher.admin.console import EXPIRE_S, Preparing, PreparingStore
from batcher.models import ModelSpec
from batcher.settings import WorkerSettings
from batcher.worker import building
from batcher.worker.several import SeveralWorkers
from model_store.phases import begin, phase
from model_store.stub import StubClassifier
from tests.service import wait_until


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PreparingStore:
    made = fakeredis.FakeRedis()

    def connect(url: str, *, timeout_s: float, retries: int, key: str) -> fakeredis.FakeRedis:
        assert retries == 0 or timeout_s != building.ANNOUNCE_S, (
            "a loaded model does not wait for a second attempt"
        )
        return made

    monkeypatch.setattr("batcher.worker.building.connect", connect)
    monkeypatch.setattr("batcher.worker.building.ANNOUNCE_S", 0.01)
    return PreparingStore(made, "default")


def test_a_worker_that_loads_a_model_says_what_it_does_until_it_is_loaded(
    store: PreparingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Preparing] = []

    def shown(doing: str) -> bool:
        return [one.phase for one in store.read()] == [doing]

    def slow(reference: str, *, on_phase: Callable[[str], None], **_: Any) -> StubClassifier:
        begin(on_phase)
        for doing in ("computing the answers", "proving"):
            phase(doing)
            wait_until(partial(shown, doing), doing)
        seen.extend(store.read())
        return StubClassifier()

    monkeypatch.setattr(building, "load", slow)
    building.load_one(WorkerSettings(), ModelSpec("", "/models/topics"))
    assert [(one.reference, one.phase) for one in seen] == [("/models/topics", "proving")]
    assert seen[0].seconds >= 0
    assert store.read() == []


def test_what_a_worker_loads_is_shown_with_its_name_and_how_long_it_has_taken(
    store: PreparingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Preparing] = []
    closed: list[Any] = []
    monkeypatch.setattr("batcher.worker.building.ANNOUNCE_S", 10)
    monkeypatch.setattr("batcher.worker.building.time", SimpleNamespace(monotonic=lambda: 1003.456))
    monkeypatch.setattr(PreparingStore, "note", lambda self, one: noted.append(one))
    monkeypatch.setattr(fakeredis.FakeRedis, "close", lambda client: closed.append(client))
    with building.announced(WorkerSettings(), "/models/topics", began=990.0):
        wait_until(lambda: noted, "an announcement")
        time.sleep(0.02)
    worker = f"{socket.gethostname()}-{os.getpid()}"
    assert noted == [Preparing(worker, "/models/topics", 13.5, "reading its files")], (
        "it is not said again soon"
    )
    assert closed


def test_a_worker_that_measured_its_speed_was_not_mentioned(
    store: PreparingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page said that no worker was running."""
    seen: list[Preparing] = []

    def slow(self: SeveralWorkers) -> None:
        seen.extend(wait_until(store.read, "an announcement"))

    monkeypatch.setattr(SeveralWorkers, "warm_up", slow)
    served = building.LoadedModels(WorkerSettings(model="stub"))
    served.warm_up()
    served.close()
    assert [(one.reference, one.phase) for one in seen] == [("stub", "measuring what batches cost")]
    assert store.read() == []


def test_a_worker_that_ended_while_it_loaded_a_model_is_not_shown(
    store: PreparingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("batcher.admin.console.server_time_s", lambda client: 1000.0)
        store.note(Preparing("host-1", "default", 3.0, "proving"))
    store.note(Preparing("host-2", "default", 3.0, "proving"))
    assert [one.worker for one in store.read()] == ["host-2"]
    assert 0 < store._client.ttl("{millrace:2:default}:preparing") <= EXPIRE_S


def test_an_outage_of_redis_does_not_delay_the_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batcher.worker.building.ANNOUNCE_S", 0.01)
    asked: list[str] = []

    def slow(reference: str, **_: Any) -> StubClassifier:
        wait_until(lambda: bool(asked), "the first attempt")
        return StubClassifier()

    def refused(self: PreparingStore, one: Preparing) -> None:
        asked.append(one.phase)
        raise ConnectionError

    monkeypatch.setattr(building, "load", slow)
    monkeypatch.setattr(PreparingStore, "note", refused)
    assert building.load_one(WorkerSettings(), ModelSpec("", "stub")).info.name == "stub"
