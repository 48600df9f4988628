"""What a process asks of Redis once a second, and what only when it has connected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import exceptions as redis_errors

from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot, Sweep
from batcher.hub.hub import Sweeper

STATS = b"unexpected_error_replies:%d\r\n"
INFO = b"used_memory:5\r\nmaxmemory:9\r\nmaxmemory_policy:%b\r\n"


class Redis:
    """Answers sweeps as the process that `sweeps`, or as another one."""

    def __init__(self) -> None:
        self.policy, self.skipped, self.sweeps = b"allkeys-lru", 0, False
        self.asked: list[str] = []
        self.memory: list[int] = []

    async def run(self, sweep: Sweep) -> Snapshot:
        self.memory.append(sweep.memory.limit)
        return replace(NO_SNAPSHOT, swept=self.sweeps)

    async def execute(self, *words: Any) -> bytes:
        self.asked.append(words[1])
        return INFO % self.policy if words[1] == "memory" else STATS % self.skipped


class Others:
    looks = 0

    async def look(self, pipeline: Any) -> None:
        self.looks += 1


async def test_what_changes_with_a_server_is_looked_at_when_it_is_connected() -> None:
    redis, others = Redis(), Others()
    made: Any = Sweeper(redis, "api", 3, "", others)  # type: ignore[arg-type]
    await made.sweep(connected=False)
    assert "allkeys-lru" in made.redis_watch.warning
    assert others.looks == 1
    redis.policy = b"noeviction"
    for _ in range(3):
        await made.sweep(connected=True)
    assert (redis.asked, redis.memory) == (["memory", "stats"], [9, 0, 0, 0]), "another process sweeps"
    assert made.redis_watch.warning
    redis.sweeps = True
    for _ in range(3):
        await made.sweep(connected=True)
    assert (redis.asked[2:], redis.memory[4:]) == (["memory"] * 2, [0, 9, 9])
    assert others.looks == 1
    await made.sweep(connected=False)
    assert (made.redis_watch.warning, others.looks) == ("", 2)
    redis.skipped = 7
    await made.sweep(connected=False)
    assert made.redis_watch.skipped == 7
    assert "refused 7 commands of its append-only file" in made.redis_watch.warning


@pytest.mark.parametrize("refused", [True, False])
async def test_a_user_that_may_not_read_the_memory_sweeps_and_an_outage_is_one(
    monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    redis = Redis()
    errors = redis_errors.ResponseError("NOPERM"), redis_errors.ConnectionError("gone")

    async def execute(*words: Any) -> bytes:
        raise errors[not refused]

    monkeypatch.setattr(redis, "execute", execute)
    made: Any = Sweeper(redis, "api", 3, "", Others())  # type: ignore[arg-type]
    if refused:
        await made.sweep(connected=False)
        assert redis.memory == [0]
    else:
        with pytest.raises(redis_errors.ConnectionError):
            await made.sweep(connected=False)


def test_a_policy_that_evicts_is_told_once_and_again_after_a_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = RedisWatch()
    for policy in (
        b"noeviction",
        b"allkeys-lru",
        b"allkeys-lru",
        b"noeviction",
        b"allkeys-lru",
        b"volatile-lru",
    ):
        watch.look(INFO % policy, STATS % 0)
    assert [record.getMessage().split(" is ")[1].split(".")[0] for record in caplog.records] == [
        "allkeys-lru",
        "allkeys-lru",
        "volatile-lru",
    ]


def test_what_redis_refused_of_its_own_file_is_told_once_beside_its_policy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, whole = RedisWatch(), RedisWatch()
    for stats in (STATS % 3, STATS % 3, b"", STATS % 3):
        watch.look(INFO % b"allkeys-lru", stats)
    assert [record.__dict__["action"] for record in caplog.records].count("redis.skipped") == 2
    assert "allkeys-lru" in watch.warning
    assert "refused 3 commands" in watch.warning
    merged = RedisWatch.merge([watch, whole, watch])
    assert (merged.skipped, merged.warning) == (6, watch.warning)
