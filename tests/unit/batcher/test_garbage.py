"""What failed batches and jobs leave: a reference cycle would keep their texts until garbage is collected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.connection.scripts import script_source
from batcher.errors import EntryPoisoned, NoWorker, QueueUnavailable
from batcher.jobs import runner
from batcher.jobs.runner import Interrupted, SteppedAside
from batcher.jobs.store import SCRIPTS, JobStore
from batcher.messages import Outcome, Prediction
from batcher.settings import JobSettings, WorkerSettings
from batcher.worker.cache_writer import remember
from batcher.worker.host import Host
from batcher.worker.loop import Worker
from model_store.stub import StubClassifier
from tests.conftest import FakeRedis, encoded
from tests.fakes import FakeClock, FakeEvent, FakeQueue, heartbeat_queue
from tests.unit.fakes import RUNNING, FakeCache, FakeHub, prediction, run_attempt
from tests.unit.garbage import LARGE, collected_by_hand, large_garbage

JOB = "a" * 32
GOOD, POISON, UNREADABLE = "word ", "\0raise ", "unreadable "


def texts(*kinds: str) -> list[str]:
    """A long text of each kind."""
    return [f"{kind}{number} {'x' * LARGE}" for number, kind in enumerate(kinds)]


@pytest.fixture(autouse=True)
def unlogged() -> Iterator[None]:
    """pytest keeps the errors in log records."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# -- workers -------------------------------------------------------------------------------------


class Model(StubClassifier):
    """A stub whose tokenizer raises on some texts, and which may fail on all."""

    broken = False

    def tokenize(self, texts: Any) -> Any:
        if any(text.startswith(UNREADABLE) for text in texts):
            raise ValueError("unreadable")
        return super().tokenize(texts)

    def classify(self, batch: Any) -> Any:
        if self.broken:
            raise ValueError("broken")
        return super().classify(batch)


class AtOnce(Executor):
    """Runs work in the calling thread, at once."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def work(queue: FakeQueue, model: Model) -> None:
    """A worker's life, until it has waited twice for nothing."""
    clock, waits = FakeClock(), [1, 2]
    host = Host(
        clock.now,
        lambda: FakeEvent(clock),
        lambda _: AtOnce(),
        lambda *_: Thread(target=bool, daemon=True),
    )
    settings = WorkerSettings(lease_ms=60_000, batch_tokens=2000)
    worker = Worker(model, queue.queues, settings, list, lambda report: None, host)
    queue.on_idle = lambda: None if waits.pop() > 1 else worker.stop()
    worker.run()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("kinds", [[GOOD], [GOOD, POISON, GOOD], [POISON] * 3, [GOOD, UNREADABLE]])
def test_a_batch_stayed_in_memory_until_garbage_was_collected(kinds: list[str], broken: bool) -> None:
    queue, model = FakeQueue(texts(*kinds)), Model()
    model.broken = broken
    with collected_by_hand():
        work(queue, model)
        found = large_garbage()
    assert broken or len(queue.completed) == len(kinds)
    assert not found, "\n".join(found)


class RefusingConnection:
    """Redis refuses each command. As in redis-py, the error refers to frames, here one with what was sent."""

    sent: object = None

    def send_packed_command(self, packed: object) -> None:
        self.sent = packed

    def read_response(self) -> Any:
        sent = self.sent
        assert sent
        raise redis.exceptions.OutOfMemoryError("command not allowed")

    def disconnect(self) -> None: ...


def refusing() -> Any:
    connection: Any = RefusingConnection()
    connection.retry = SimpleNamespace(call_with_retry=lambda attempt, _: attempt())
    pool = SimpleNamespace(get_connection=lambda: connection, release=lambda _: None)
    return SimpleNamespace(connection_pool=pool)


def large_prediction(text: str) -> Prediction:
    return prediction(text)._replace(fragment=b'[{"label":"%b","score":1.0}]' % (b"x" * LARGE))


def test_results_that_redis_refused_stayed_in_memory_until_garbage_was_collected() -> None:
    queue = heartbeat_queue(refusing(), "t", "w", lease_ms=1000, max_attempts=3, result_ms=1000)
    with collected_by_hand():
        with suppress(redis.exceptions.OutOfMemoryError):
            queue.run([queue.complete_command([("a", large_prediction("a").encode())])] * 2)
        found = large_garbage()
    assert not found, "\n".join(found)


def test_results_that_the_cache_refused_stayed_in_memory_until_garbage_was_collected() -> None:
    with collected_by_hand():
        remember(refusing(), "t", 60.0, [("a", large_prediction("a"))])
        found = large_garbage()
    assert not found, "\n".join(found)


# -- jobs ----------------------------------------------------------------------------------------


def poison(store: JobStore, hub: FakeHub) -> None:
    hub.answer = lambda text: (
        EntryPoisoned("it ended three workers") if POISON in text else large_prediction(text)
    )


def refuse(refusal: Exception) -> Callable[[JobStore, FakeHub], None]:
    def arrange(store: JobStore, hub: FakeHub) -> None:
        hub.refusal, hub.refuses = refusal, 2

    return arrange


def forget_texts(store: JobStore, hub: FakeHub) -> None:
    store._client.hdel(f"{{millrace-jobs:unit}}:job:{JOB}:input", "2")


def lose_redis(store: JobStore, hub: FakeHub) -> None:
    append, failures = store.append, [redis.exceptions.ConnectionError("away")]

    def away(*args: Any, **more: Any) -> str:
        if failures:
            raise failures.pop()
        return append(*args, **more)

    store.append = away  # type: ignore[method-assign]


def when_asked(act: Callable[[JobStore], object]) -> Callable[[JobStore, FakeHub], None]:
    """Acts once the first texts of the job are computed."""

    def arrange(store: JobStore, hub: FakeHub) -> None:
        acts = [act]

        def answer(text: str) -> Outcome:
            while acts:
                acts.pop()(store)
            return large_prediction(text)

        hub.answer = answer

    return arrange


JOBS: dict[str, tuple[Callable[[JobStore, FakeHub], None], str]] = {
    "poison": (poison, "finished"),
    "a refusal": (refuse(QueueUnavailable("away", retry_after_s=0.001)), "finished"),
    "no worker": (refuse(NoWorker("none", retry_after_s=0.001)), "finished"),
    "an unforeseen error": (refuse(RuntimeError("unforeseen")), "running"),
    "texts that are gone": (forget_texts, "failed"),
    "a lost Redis": (lose_redis, "finished"),
    "a client that is gone": (when_asked(lambda store: store.cancel(JOB)), "cancelled"),
    "a job that was deleted": (when_asked(lambda store: store.cancel(JOB) and store.delete(JOB)), "gone"),
    "another attempt": (when_asked(lambda store: store.start(JOB)), "running"),
}


@pytest.fixture
def store(fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> JobStore:
    """With a job of long texts. Redis knows the scripts: else its fake keeps the first calls of each."""
    monkeypatch.setattr(runner, "STORE_RETRY_S", 0.001)
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.02)
    made = JobStore(fake_redis.sync, "unit", 60)
    for file in (resources.files(SCRIPTS) / "lua").iterdir():
        if (name := file.name.removesuffix(".lua")) != "common":
            fake_redis.sync.script_load(script_source(name, SCRIPTS))
    upload = made.upload(JOB, 2)
    for _ in range(4):
        upload.add(encoded(texts(GOOD, POISON)))
    assert made.create(upload, "digest", 10).outcome == "created"
    return made


@pytest.mark.parametrize("why", JOBS)
async def test_the_texts_of_a_job_stayed_in_memory_until_garbage_was_collected(
    store: JobStore, why: str
) -> None:
    arrange, status = JOBS[why]
    hub, cache = FakeHub(lane="bulk", answer=large_prediction), FakeCache()
    arrange(store, hub)
    with collected_by_hand():
        with suppress(ExceptionGroup):
            await run_attempt(store.start(JOB), store, JobSettings(job_in_flight=4), hub, cache)
        found = large_garbage()
    record = store.record(JOB)
    assert (record.status if record else "gone") == status
    assert not found, "\n".join(found)


@pytest.mark.parametrize("blocked", [False, True])
async def test_the_texts_of_a_job_that_steps_aside_stayed_in_memory_until_garbage_was_collected(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, blocked: bool
) -> None:
    monkeypatch.setattr(runner, "ASIDE_S", 0.0)
    hub, cache = FakeHub(lane="bulk", gate=asyncio.Event()), FakeCache()
    if blocked:
        hub.snapshot = replace(RUNNING, workers=0)
    with collected_by_hand():
        try:
            await run_attempt(store.start(JOB), store, JobSettings(), hub, cache, lambda: not blocked)
        except SteppedAside:
            aside = True
        except Interrupted:
            aside = False
        found = large_garbage()
    assert hub.cancelled
    assert aside is blocked
    assert not found, "\n".join(found)
