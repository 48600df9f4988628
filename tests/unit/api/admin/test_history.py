"""The last hours, minute by minute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from api.admin.history import Minutes
from api.admin.service import Console
from api.stats.history import StatsPoint
from batcher.admin.console import MINUTES
from batcher.errors import QueueUnavailable
from tests.unit.api.admin.conftest import AdminApi, P
from tests.unit.fakes import RUNNING, hanging

POINT = StatsPoint(10.0, 4.0, 1.0, 0.5, 20.0, 3.0, 30.0, 5)


async def test_a_minute_is_one_line_by_the_process_that_sweeps(api: AdminApi) -> None:
    now_s = [600.0]
    for sweeps in (True, False):
        minutes = Minutes(Console(api.stores, lambda: [True]), lambda: now_s[0])
        for at_s, point in ((600, POINT), (630, replace(POINT, answered=20.0, waiting=9)), (661, POINT)):
            now_s[0] = at_s
            minutes.take(point, replace(RUNNING, swept=sweeps, workers=3))
        assert (minutes.writing is not None) == sweeps
        if minutes.writing is not None:
            await minutes.writing
    assert (await api.get("/history")).json()["history"] == [
        {
            "at_s": 600,
            "answered": 15.0,
            "hits": 4.0,
            "refused": 1.0,
            "shed": 0.5,
            "worked": 20.0,
            "waiting": 9,
            "p50_ms": 3.0,
            "p99_ms": 30.0,
            "workers": 3,
        }
    ]


async def test_the_history_is_bounded(api: AdminApi) -> None:
    api.redis.rpush(f"{P}:minutes", *["{}"] * (MINUTES + 9))
    api.stores.minutes.add(b'{"at_s":1}')
    assert api.redis.llen(f"{P}:minutes") == MINUTES
    assert 0 < api.redis.ttl(f"{P}:minutes") <= 86_400
    assert (await api.get("/history", minutes=1)).json() == {"history": [{"at_s": 1}]}
    for minutes in (0, MINUTES + 1, "x"):
        assert (await api.get("/history", minutes=minutes)).status_code == 422


async def test_what_comes_after_the_console_has_stopped_is_not_an_error_in_the_log(api: AdminApi) -> None:
    console = Console(api.stores, lambda: [True])
    console.stop()
    minutes = Minutes(console, iter((600.0, 661.0)).__next__)
    minutes.take(POINT, replace(RUNNING, swept=True))
    minutes.take(POINT, replace(RUNNING, swept=True))
    assert minutes.writing is not None
    await minutes.writing
    with pytest.raises(QueueUnavailable):
        await console.each(lambda stores: None)


async def test_the_console_stops_without_waiting_for_a_call_that_hangs(api: AdminApi) -> None:
    console = Console(api.stores, lambda: [True])
    async with hanging(console.call):
        console.stop()


async def test_a_service_without_shards_does_not_number_its_redis(api: AdminApi) -> None:
    def away() -> None:
        raise redis.exceptions.ConnectionError("refused")

    with pytest.raises(QueueUnavailable, match=r"^Redis does not answer$"):
        await Console(api.stores, lambda: [True]).call(away)
