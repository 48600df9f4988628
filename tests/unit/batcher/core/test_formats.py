"""Versions with different formats of data: they share no keys, and an API says so if it meets another one."""

from __future__ import annotations

import time

import pytest

from batcher.connection.pipeline import Pipeline
from batcher.core.keys import cache_prefix, prefix
from batcher.core.redis_watch import OtherFormats
from batcher.jobs.rq_queue import queue_name
from batcher.jobs.store import jobs_prefix
from batcher.shards import FORMAT, Shard, hash_tag
from tests.conftest import FakeRedis

HERE = Shard(0, "redis://a:6379/0", "t", "t")
IN_A_CLUSTER = Shard(0, "redis+cluster://a:6379", "t", "{t}")


def test_keys_differ_from_those_of_0_1_0() -> None:
    ours = [prefix("t"), cache_prefix("t"), jobs_prefix("t"), queue_name("t")]
    assert ours == ["{millrace:2:t}", "millrace:cache:2:t:", "{millrace-jobs:t}", "millrace-jobs:t"]
    theirs = ["{millrace:t}", "millrace:cache:t:", "{millrace:t}", "millrace-t"]
    assert not any(one.startswith(other) for one, other in zip(ours, theirs, strict=True))
    assert hash_tag("t", 1) == "{millrace:t}"


@pytest.mark.parametrize(("step", "warns"), [(-1, True), (0, False), (1, True)])
async def test_an_api_warns_of_live_workers_of_another_format(
    fake_redis: FakeRedis, caplog: pytest.LogCaptureFixture, step: int, warns: bool
) -> None:
    fake_redis.sync.zadd(f"{hash_tag('t', FORMAT + step)}:workers", {"w": (time.time() + 60) * 1000})
    await OtherFormats(HERE).look(Pipeline(fake_redis.aio, prefix("t")))
    assert (["another format of data" in record.message for record in caplog.records] == [True]) == warns


async def test_workers_that_have_ended_and_other_nodes_of_a_cluster_are_no_concern(
    fake_redis: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    workers, pipeline = f"{hash_tag('t', 1)}:workers", Pipeline(fake_redis.aio, prefix("t"))
    fake_redis.sync.zadd(workers, {"w": (time.time() - 60) * 1000})
    await OtherFormats(HERE).look(pipeline)
    fake_redis.sync.zadd(workers, {"w": (time.time() + 60) * 1000})
    await OtherFormats(IN_A_CLUSTER).look(pipeline)
    assert not caplog.records
