"""The shared cache while its Redis is well, hangs or is gone: hits are all it may cost."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from batcher.connection.pipeline import Pipeline
from batcher.core.keys import cache_key
from batcher.hub import shared_cache
from batcher.hub.shared_cache import SharedCache
from batcher.messages import entry_id
from batcher.worker import cache_writer
from batcher.worker.cache_writer import CacheWriter
from tests.conftest import FakeRedis
from tests.service import wait_until
from tests.unit.fakes import REVISION, prediction

TEXTS = ["one", "two"]
IDS = [entry_id(text) for text in TEXTS]
HANG_S = 0.05


class Hanging:
    """A pipeline whose server takes connections and does not answer, until `well`."""

    def __init__(self, well: bool = False) -> None:
        self.well = well
        self.asked: list[str] = []

    async def execute(self, command: str, *keys: str) -> list[bytes | None]:
        self.asked.append(command)
        if not self.well:
            await asyncio.sleep(HANG_S)
            raise redis.exceptions.TimeoutError("no answer")
        return [prediction("one").encode()] * len(keys)

    async def close(self) -> None:
        self.asked.append("close")


def cache_over(pipeline: Any) -> SharedCache:
    return SharedCache(pipeline, "t")


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["action"] for record in caplog.records]


async def test_a_cache_that_hangs_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="batcher")
    monkeypatch.setattr(shared_cache, "PAUSE_S", 0.0)
    client = Hanging()
    cache = cache_over(client)
    assert await asyncio.gather(*(cache.get(REVISION, IDS) for _ in range(5))) == [[None, None]] * 5
    asked = len(client.asked)
    for _ in range(20):
        assert await cache.get(REVISION, IDS) == [None, None]
    assert client.asked.count("MGET") == asked, "nothing is looked up while it is away"
    client.well = True
    async with asyncio.timeout(60):
        while await cache.get(REVISION, IDS) == [None, None]:  # noqa: ASYNC110 - only a lookup looks again
            await asyncio.sleep(HANG_S / 5)
    assert actions(caplog) == ["cache.lost", "cache.back"]
    assert cache.outage.count == 1
    assert client.asked == ["MGET"] * 5 + ["PING", "MGET"]
    await cache.close()


async def test_a_look_whether_it_is_back_ends_before_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_cache, "PAUSE_S", 0.0)
    client = Hanging()
    cache = cache_over(client)
    for _ in range(2):
        assert await cache.get(REVISION, IDS) == [None, None]
    await cache.close()
    assert client.asked == ["MGET", "PING", "close"]


async def test_it_is_left_alone_for_a_while_after_a_loss() -> None:
    client = Hanging()
    cache = cache_over(client)
    for _ in range(5):
        await cache.get(REVISION, IDS)
    await cache.close()
    assert client.asked == ["MGET", "close"]


class Slotted(Pipeline):
    """A connection to a cluster: keys of several slots in one command are refused."""

    refused = 0
    away = ""

    def execute(self, *words: Any) -> asyncio.Future[Any]:
        if words[0] != "MGET" and words[1] != self.away:
            return super().execute(*words)
        refusal = asyncio.get_running_loop().create_future()
        if words[0] == "MGET":
            self.refused += 1
            refusal.set_exception(redis.exceptions.ClusterCrossSlotError("Keys don't hash to the same slot"))
        else:
            refusal.set_exception(redis.exceptions.ConnectionError("no master"))
        return refusal


async def test_a_cluster_is_asked_for_each_key(fake_redis: FakeRedis) -> None:
    pipeline = Slotted(fake_redis.aio)
    cache = cache_over(pipeline)
    fake_redis.sync.set(cache_key("t", REVISION, IDS[1]), prediction("two").encode())
    for pipeline.away in ("", "", cache_key("t", REVISION, IDS[0])):
        assert await cache.get(REVISION, IDS) == [None, prediction("two")._replace(cached=True)]
    assert pipeline.refused == 1, "it is asked once"
    assert cache.outage.over


class Waiting:
    """A client whose connection answers once `gate` opens, and fails or not."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.error: Exception | None = None
        self.asked = self.written = 0
        self.connection_pool = self
        self.retry = Retry(NoBackoff(), 0)

    def get_connection(self) -> Waiting:
        return self

    def release(self, connection: Waiting) -> None: ...

    def close(self) -> None: ...

    def disconnect(self) -> None: ...

    def send_packed_command(self, packed: tuple[bytes]) -> None: ...

    def read_response(self) -> bool:
        assert self.gate.wait(5)
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.written += 1
        return True


RESULT = [(IDS[0], prediction("one"))]


def test_a_worker_does_not_wait_for_the_cache() -> None:
    client = Waiting()
    write = CacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    began = time.perf_counter()
    for _ in range(cache_writer.UNWRITTEN + 5):
        write(RESULT)
    assert time.perf_counter() - began < 4
    client.gate.set()

    def one_more() -> bool:
        write(RESULT)
        return client.written > cache_writer.UNWRITTEN

    wait_until(lambda: client.written == cache_writer.UNWRITTEN, "what comes too fast is not remembered")
    wait_until(one_more, "what comes later is remembered")
    write.close()


def test_what_waits_for_a_cache_that_fails_is_dropped() -> None:
    client = Waiting()
    client.error = redis.exceptions.TimeoutError("no answer")
    write = CacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    for _ in range(3):
        write(RESULT)
    client.gate.set()
    write.close()
    assert (client.asked, write.outage.count) == (1, 1)


def test_a_cache_that_fails_is_written_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="batcher")
    monkeypatch.setattr(cache_writer, "PAUSE_S", 0.1)
    caplog.set_level(logging.WARNING)
    client = Waiting()
    client.gate.set()
    client.error = redis.exceptions.TimeoutError("no answer")
    write = CacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    write(RESULT)
    deadline = time.monotonic() + 5
    while write.outage.over:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    client.error = None
    write(RESULT)
    time.sleep(0.15)
    write(RESULT)
    write.close()
    assert client.written == 1
    assert actions(caplog) == ["cache.lost", "cache.back"]


def test_what_goes_wrong_beside_the_worker_is_told(caplog: pytest.LogCaptureFixture) -> None:
    write = CacheWriter(redis.Redis(), "t", 3600.0)
    write([(IDS[0], None)])  # type: ignore[list-item]
    write.close()
    assert [record.action for record in caplog.records] == ["cache.unwritten"]  # type: ignore[attr-defined]
