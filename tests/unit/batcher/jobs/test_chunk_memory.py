"""What the chunks of jobs take of a process's memory together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from sys import getsizeof
from typing import Any

import pytest

from batcher.jobs import runner
from batcher.jobs.models import OpenQueue
from batcher.jobs.runner import FEW_TEXTS, ChunkMemory, Interrupted, JobRun, bounds_of, memory_of
from batcher.jobs.store import JobStore
from batcher.jobs.upload import result_bytes
from batcher.messages import Outcome
from batcher.settings import JobSettings
from tests.conftest import FakeRedis, encoded
from tests.unit.batcher.jobs.jobs_bench import until
from tests.unit.fakes import MODEL, FakeCache, FakeHub, job_connection

SETTINGS = JobSettings(job_in_flight=512)


def job(store: JobStore, job_id: str, chunks: int, text: str = "{}") -> None:
    upload = store.upload(job_id, 4)
    for chunk in range(chunks):
        upload.add(encoded(text.format(f"{job_id} {chunk} {number}") for number in range(4)))
    assert store.create(upload, "digest", 100).outcome == "created"


def run(store: JobStore, job_id: str, hub: FakeHub, memory: ChunkMemory, stop: Sequence[bool] = ()) -> JobRun:
    opened = {"": OpenQueue(hub, FakeCache())}
    connection = job_connection(opened, SETTINGS, stop=lambda: bool(stop))
    return JobRun(store.start(job_id), store, SETTINGS, connection, bounds_of(SETTINGS, memory))


async def asked(hub: FakeHub, count: int) -> None:
    """Returns once the texts of so many chunks wait."""
    async with asyncio.timeout(30):
        while len(hub.asked) < count:  # noqa: ASYNC110  # a thread reads them
            await asyncio.sleep(0.005)


@pytest.fixture
def store(fake_redis: FakeRedis) -> JobStore:
    return JobStore(fake_redis.sync, "unit", 600)


async def test_twenty_jobs_held_eighty_chunks_of_the_longest_texts(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.6 GiB of texts with one wide character each, where a jobs worker may have 512 MiB."""
    monkeypatch.setattr(runner, "FEW_TEXTS", 4)
    wide = "\N{GRINNING FACE} " + "x" * 1000 + " {}"
    hub = FakeHub(lane="bulk", gate=asyncio.Event())
    chunk = memory_of([wide.format("a" * 32 + " 0 0")] * 4, MODEL.labels)
    memory = ChunkMemory(2 * chunk + 1)
    runs = []
    for number in range(5):
        job(store, f"{number:032x}", 3, wide)
        runs.append(run(store, f"{number:032x}", hub, memory))
    working = [asyncio.create_task(one.run()) for one in runs]
    await asked(hub, 3)
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert memory.held <= 3 * chunk
    assert len(hub.asked) == 3
    assert hub.gate is not None
    hub.gate.set()
    assert await asyncio.gather(*working) == ["finished"] * 5
    assert memory.held == 0


class FirstWaits(FakeHub):
    """The first chunk of a job waits at the gate, and the others have been answered."""

    async def classify(self, ids: Sequence[str], texts: Sequence[str], **more: Any) -> list[Outcome]:
        if " 0 " not in texts[0]:
            self.asked.append(list(texts))
            return [self.answer(text) for text in texts]
        return await super().classify(ids, texts, **more)


@pytest.mark.parametrize("kind", [FakeHub, FirstWaits])
async def test_what_an_interrupted_attempt_held_is_given_back(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, kind: type[FakeHub]
) -> None:
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.01)
    hub, memory, stop = kind(lane="bulk", gate=asyncio.Event()), ChunkMemory(), list[bool]()
    job(store, "a" * 32, 5)
    working = asyncio.create_task(run(store, "a" * 32, hub, memory, stop).run())
    await asked(hub, 5)
    assert memory.held > 0
    stop.append(True)
    with pytest.raises(Interrupted):
        await working
    assert memory.held == 0


async def test_chunks_are_read_in_the_order_in_which_they_were_asked_for() -> None:
    memory, order = ChunkMemory(1), list[int]()

    async def read(number: int) -> None:
        async with memory.turn(4 * FEW_TEXTS):
            order.append(number)
            memory.take(1)

    tasks = [asyncio.create_task(read(number)) for number in range(3)]
    await until(lambda: order == [0])
    tasks.append(asyncio.create_task(read(3)))
    for number in range(1, 4):
        memory.give_back(1)
        await until(lambda count=number + 1: len(order) == count)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]


async def test_one_text_waited_for_the_memory_that_long_texts_of_another_model_had(store: JobStore) -> None:
    memory = ChunkMemory(1)
    slow, quick = FakeHub(lane="bulk", gate=asyncio.Event()), FakeHub(lane="bulk")
    job(store, "a" * 32, FEW_TEXTS)
    job(store, "b" * 32, 1)
    working = asyncio.create_task(run(store, "a" * 32, slow, memory).run())
    await asked(slow, 1)
    assert await run(store, "b" * 32, quick, memory).run() == "finished"
    assert slow.gate is not None
    slow.gate.set()
    assert await working == "finished"
    assert memory.held == 0


async def test_a_chunk_waits_while_as_much_is_held_as_may_be() -> None:
    memory, read = ChunkMemory(10), list[int]()

    async def turn(texts: int) -> None:
        async with memory.turn(texts):
            read.append(texts)

    memory.take(9)
    await turn(FEW_TEXTS + 1)
    memory.take(3)
    await turn(FEW_TEXTS)
    waiting = asyncio.create_task(turn(FEW_TEXTS + 2))
    for held in (12, 11, 10):
        await asyncio.sleep(0.01)
        assert (memory.held, read) == (held, [FEW_TEXTS + 1, FEW_TEXTS])
        memory.give_back(1)
    await waiting
    assert (memory.held, read) == (9, [FEW_TEXTS + 1, FEW_TEXTS, FEW_TEXTS + 2])


def test_what_a_chunk_takes_is_its_texts_and_the_longest_results() -> None:
    labels = [f"label {number}" for number in range(50)]
    assert memory_of([], labels) == 0
    assert memory_of(["a", "bc", None], labels) == sum(map(getsizeof, ("a", "bc", None))) + 3 * result_bytes(
        labels
    )


async def test_chunks_are_read_only_as_far_ahead_as_fills_the_requests(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two chunks of four that eight texts in flight need, and two more."""
    read = list[int]()

    def recorded(job_id: str, chunk: int) -> object:
        read.append(chunk)
        return JobStore.input(store, job_id, chunk)

    monkeypatch.setattr(store, "input", recorded)
    hub, settings = FakeHub(lane="bulk", gate=asyncio.Event()), JobSettings(job_in_flight=8)
    job(store, "a" * 32, 9)
    connection = job_connection({"": OpenQueue(hub, FakeCache())}, settings)
    one = JobRun(store.start("a" * 32), store, settings, connection, bounds_of(settings))
    working = asyncio.create_task(one.run())
    await until(lambda: len(read) == 4)
    await asyncio.sleep(0.02)
    assert len(read) == 4
    assert hub.gate is not None
    hub.gate.set()
    assert await working == "finished"
    assert sorted(read) == list(range(9))
