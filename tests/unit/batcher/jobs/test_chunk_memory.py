"""What the chunks of jobs take of a process's memory together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from batcher.jobs import runner
from batcher.jobs.models import OpenQueue
from batcher.jobs.runner import FEW_TEXTS, ChunkMemory, Interrupted, JobRun, bounds_of, memory_of
from batcher.jobs.store import JobStore
from batcher.settings import JobSettings
from tests.conftest import FakeRedis, encoded
from tests.unit.api.service import until
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


async def test_what_an_interrupted_attempt_held_is_given_back(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.01)
    hub, memory, stop = FakeHub(lane="bulk", gate=asyncio.Event()), ChunkMemory(), list[bool]()
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
