"""What a worker is made of."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.core.publications import NO_PUBLICATIONS, Publications, Published
from batcher.settings import WorkerSettings
from batcher.worker import building
from batcher.worker.building import DROP_S, LoadedModels, Publishing, build_worker
from batcher.worker.observability import Observability
from batcher.worker.queue import WorkerQueue
from model_store.stub import StubClassifier

HERE, ELSEWHERE = "redis://127.0.0.1:1", "redis://127.0.0.1:2"


@pytest.mark.parametrize(("cache", "remembers"), [(None, True), (HERE, True), (ELSEWHERE, False)])
def test_the_queues_scripts_cache_only_if_the_cache_is_in_their_redis(
    cache: str | None, remembers: bool
) -> None:
    settings = WorkerSettings.model_validate({"redis_url": HERE, "cache_url": cache})
    made = build_worker(settings, Observability(StubClassifier(), settings), lambda *results: None)
    queues = made.queues.commands, made.queues.waiting, made.queues.heartbeat
    assert [queue.remembers for queue in queues] == [remembers] * 3
    for queue in queues:
        queue.close()


def test_a_process_that_ends_closes_the_clients_of_all_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[WorkerQueue] = []
    monkeypatch.setattr(WorkerQueue, "close", lambda queue: closed.append(queue))
    settings = WorkerSettings.model_validate({"redis_url": HERE, "model": "stub,other=stub@signed"})
    made = LoadedModels(settings)
    made.close()
    assert len({id(queue) for queue in closed}) == 6


@pytest.mark.parametrize(
    ("cards", "changes", "says"),
    [
        (
            ("NVIDIA L4",),
            {"engine": "openvino"},
            "NVIDIA L4 is not used: openvino computes on the processor.",
        ),
        (("NVIDIA L4",), {"engine": "torch", "device": "NVIDIA L4"}, ""),
        (("NVIDIA L4",), {}, ""),  # the stub computes nothing
        ((), {"engine": "openvino"}, ""),
    ],
)
def test_a_worker_says_that_it_does_not_use_a_card(
    cards: tuple[str, ...],
    changes: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a node with cards, a worker used the processor without a word."""
    monkeypatch.setattr(building.hardware, "cards", lambda: cards)
    caplog.set_level("INFO")
    building._report(replace(StubClassifier().info, **changes), 1.0)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line[: len(says)] for line in warnings] == ([says] if says else [])
    where = changes.get("device", "the processor")
    assert f", packed, on {where}" in caplog.text


class Operated:
    """The models of a process, none of which can be loaded, and what operators have published."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.publications = NO_PUBLICATIONS
        self.full = False
        self.asked: list[tuple[str, str, str]] = []
        self.reported: list[tuple[str, str]] = []
        self.publishing = Publishing(self, self)  # type: ignore[arg-type]

    def read(self) -> Publications:
        return self.publications

    def report(self, queue: str, failure: str) -> None:
        self.reported.append((queue, failure))
        if self.full:
            raise redis.exceptions.OutOfMemoryError
        self.publications = replace(self.publications, failures={queue: failure})

    def add(self, model: str, queue: str, reference: str) -> None:
        self.asked.append((model, queue, reference))
        raise ValueError("x" * 501)

    def drop(self, queue: str) -> None:
        self.names.remove(queue)


BROKEN = Publications(models={"stub": Published(references={1: "/no/model"})})


def test_a_publication_that_cannot_be_loaded_is_tried_once_each_time_that_it_is_published() -> None:
    made = Operated("stub")
    for made.publications in (BROKEN, NO_PUBLICATIONS, BROKEN):
        for _ in range(2):
            made.publishing.look()
    assert made.asked == [("stub", "stub@1", "/no/model")] * 2
    assert made.reported == [("stub@1", "x" * 500)] * 2


def test_why_a_publication_cannot_be_loaded_is_written_once_redis_takes_it() -> None:
    """It was written once, and lost while Redis was full."""
    made = Operated("stub")
    made.publications, made.full = BROKEN, True
    for looks in range(1, 3):
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            made.publishing.look()
        assert (len(made.asked), len(made.reported)) == (1, looks)
    made.full = False
    for _ in range(2):
        made.publishing.look()
    assert (len(made.asked), len(made.reported)) == (1, 3)
    made.publications = BROKEN  # its shard has lost its data
    made.publishing.look()
    assert made.publications.failures == {"stub@1": "x" * 500}


def test_a_publication_is_dropped_once_it_has_not_been_needed_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(building, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = Operated("stub", "stub@1")
    needed = Publications(models={"stub": Published(references={1: "stub@v1"})})
    for made.publications in (NO_PUBLICATIONS, needed, NO_PUBLICATIONS):
        now[0] += DROP_S - 1
        made.publishing.look()
    now[0] += DROP_S - 0.5
    made.publishing.look()
    assert made.names == ["stub", "stub@1"]
    now[0] += 0.5
    made.publishing.look()
    assert made.names == ["stub"]
