"""Holds of clients end by the clock of the Redis that keeps them, whatever that of a host says."""

from __future__ import annotations

import time

import pytest

from batcher.core.holds import ClientHolds, Hold, merge_holds, read_holds
from batcher.core.keys import prefix
from tests.conftest import FakeRedis

SNAPSHOT = f"{prefix('q')}:snapshot"


def test_a_hold_that_was_read_lasts_until_its_end_by_redis() -> None:
    fields = {
        "hold:key:web": "all 1060",
        "hold:key:old": "uncached 1000",
        "hold:odd": "none 1060",
        "x": "all 1060",
    }
    holds = read_holds(fields, 1000)
    assert holds.keys() == {"key:web", "key:old"}
    assert 59 < holds["key:web"].left_s <= 60
    assert (holds["key:old"].what, holds["key:old"].left_s) == ("uncached", 0)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_hold_was_as_long_as_the_clock_of_a_host_said(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    holds, real, redis_s = ClientHolds(fake_redis.sync, "q"), time.time, round(time.time())
    monkeypatch.setattr(fake_redis.sync, "time", lambda: (redis_s, 0))
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    holds.set("key:web", "all", 59.5)
    assert fake_redis.sync.hgetall(SNAPSHOT) == {b"hold:key:web": b"all %d" % (redis_s + 60)}
    assert 58 < holds.current()["key:web"].left_s <= 60


def test_only_another_hold_removes_those_that_have_ended(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Showing them did, for all processes."""
    holds = ClientHolds(fake_redis.sync, "q")
    holds.set("key:web", "all", 60)
    later = round(time.time()) + 100
    monkeypatch.setattr(fake_redis.sync, "time", lambda: (later, 0))
    assert holds.current() == {}
    assert fake_redis.sync.hexists(SNAPSHOT, "hold:key:web")
    holds.set("key:phone", "uncached", 60)
    assert not fake_redis.sync.hexists(SNAPSHOT, "hold:key:web")
    assert holds.current().keys() == {"key:phone"}


def test_of_the_holds_of_a_client_the_one_that_ends_last_counts() -> None:
    long, short, other = Hold("all", 20), Hold("uncached", 10), Hold("all", 5)
    expected = {"a": long, "b": other}
    assert merge_holds([{"a": short, "b": other}, {"a": long}]) == expected
    assert merge_holds([{"a": long}, {"a": short, "b": other}]) == expected
