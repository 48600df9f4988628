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

from batcher.admin.forget import CachedResults
from batcher.connection.pipeline import Pipeline
from batcher.core.keys import cache_key, epoch_key
from batcher.hub import shared_cache
from batcher.hub.shared_cache import SharedCache
from batcher.messages import entry_id
from batcher.worker import cache_writer
from batcher.worker.cache_writer import CacheWriter, FencedCacheWriter
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

    def execute_command(self, *words: object) -> bool:
        return self.read_response()

    def read_response(self) -> bool:
        assert self.gate.wait(5)
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.written += 1
        return True


RESULT = [(IDS[0], prediction("one"))]
NOW = 1.0


def test_a_worker_does_not_wait_for_the_cache() -> None:
    client = Waiting()
    write = CacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    began = time.perf_counter()
    for _ in range(cache_writer.UNWRITTEN + 5):
        write(RESULT, NOW)
    assert time.perf_counter() - began < 4
    client.gate.set()

    def one_more() -> bool:
        write(RESULT, NOW)
        return client.written > cache_writer.UNWRITTEN

    wait_until(lambda: client.written == cache_writer.UNWRITTEN, "what comes too fast is not remembered")
    wait_until(one_more, "what comes later is remembered")
    write.close()


def test_what_waits_for_a_cache_that_fails_is_dropped() -> None:
    client = Waiting()
    client.error = redis.exceptions.TimeoutError("no answer")
    write = CacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    for _ in range(3):
        write(RESULT, NOW)
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
    write(RESULT, NOW)
    deadline = time.monotonic() + 5
    while write.outage.over:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    client.error = None
    write(RESULT, NOW)
    time.sleep(0.15)
    write(RESULT, NOW)
    write.close()
    assert client.written == 1
    assert actions(caplog) == ["cache.lost", "cache.back"]


def test_what_goes_wrong_beside_the_worker_is_told(caplog: pytest.LogCaptureFixture) -> None:
    write = CacheWriter(redis.Redis(), "t", 3600.0)
    write([(IDS[0], None)], NOW)  # type: ignore[list-item]
    write.close()
    assert [record.action for record in caplog.records] == ["cache.unwritten"]  # type: ignore[attr-defined]


class Fenced:
    """Workers that write a cache with its own Redis, which clients read and operators clear."""

    def __init__(self, server: FakeRedis) -> None:
        self.redis = server.sync
        self.results = CachedResults(self.redis, lambda model: f"t/{model}" if model else "t")

    def writer(self, name: str = "t") -> FencedCacheWriter:
        """A writer that has learned the epoch."""
        made = FencedCacheWriter(self.redis, name, 3600.0)
        self.finish(made)
        return made

    def finish(self, writer: CacheWriter) -> None:
        """Returns once everything is written that was scheduled."""
        writer._thread.submit(bool).result(5)

    def write(self, writer: CacheWriter, text: str, claimed_at: float | None = None) -> None:
        """Writes the result of a text that was claimed at this time, now by default."""
        at = time.monotonic() if claimed_at is None else claimed_at
        writer([(entry_id(text), prediction(text))], at)
        self.finish(writer)

    def cached(self, *texts: str, name: str = "t") -> list[str]:
        return [text for text in texts if self.redis.exists(cache_key(name, REVISION, entry_id(text)))]


@pytest.fixture
def fenced(fake_redis: FakeRedis) -> Fenced:
    return Fenced(fake_redis)


def test_a_worker_caches_what_it_claims_from_its_start_on(fenced: Fenced) -> None:
    write = fenced.writer()
    write([(entry_id(text), prediction(text)) for text in TEXTS], time.monotonic())
    fenced.finish(write)
    assert fenced.cached(*TEXTS) == TEXTS
    key = cache_key("t", REVISION, IDS[0])
    assert fenced.redis.get(key) == prediction("one").encode()
    assert 3_200_000 < fenced.redis.pttl(key) < 4_000_000
    assert 3_500_000 < fenced.redis.pttl(epoch_key("t")) <= 3_600_000
    write.close()


@pytest.mark.parametrize("forget", ["text", "revision"])
def test_what_was_claimed_before_a_forget_and_not_written_is_dropped(fenced: Fenced, forget: str) -> None:
    """The result was written after the cache had been cleared, and stayed for an hour."""
    write, other = fenced.writer(), fenced.writer("t/topics")
    claimed_at = time.monotonic()
    if forget == "text":
        fenced.results.texts({IDS[0]})
    else:
        fenced.results.revision(REVISION)
    fenced.write(write, "one", claimed_at)
    fenced.write(other, "one", claimed_at)
    fenced.write(write, "two", claimed_at)  # the epoch is known again, but not since it was claimed
    assert fenced.cached(*TEXTS) == fenced.cached(*TEXTS, name="t/topics") == []
    fenced.write(write, "one")
    fenced.write(other, "two")
    assert (fenced.cached(*TEXTS), fenced.cached(*TEXTS, name="t/topics")) == (["one"], ["two"])
    write.close()
    other.close()


def test_another_worker_that_knows_the_new_epoch_lets_no_former_result_in(fenced: Fenced) -> None:
    frozen, other = fenced.writer(), fenced.writer()
    fenced.results.texts({IDS[0]})
    for text in TEXTS:
        fenced.write(other, text)
    assert fenced.cached(*TEXTS) == ["two"]
    fenced.write(frozen, "one")
    assert fenced.cached("one") == []
    frozen.close()
    other.close()


def test_a_cache_that_has_lost_its_epoch_is_written_again(fenced: Fenced) -> None:
    write = fenced.writer()
    fenced.redis.flushall()
    fenced.redis.script_flush()
    for text in TEXTS:
        fenced.write(write, text)
    assert fenced.cached(*TEXTS) == ["two"]
    write.close()


def test_a_cache_that_is_full_is_no_outage_and_one_that_refuses_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="batcher")
    client = Waiting()
    client.gate.set()
    client.error = redis.exceptions.OutOfMemoryError("command not allowed")
    write = FencedCacheWriter(client, "t", 3600.0)  # type: ignore[arg-type]
    write(RESULT, time.monotonic())
    write._thread.submit(bool).result(5)
    assert actions(caplog) == []
    client.error = redis.exceptions.NoPermissionError("no permissions to run the 'evalsha' command")
    write(RESULT, time.monotonic())
    write.close()
    assert actions(caplog) == ["cache.lost"]
