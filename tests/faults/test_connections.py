"""Connections to Redis that are cut while they are being set up, on the event loop that the API runs on."""

from __future__ import annotations

import asyncio
import random

import pytest
import uvloop
from pydantic import SecretStr

from batcher.hub.hub import ReplyHub
from batcher.settings import QueueSettings
from tests.proxy import Proxy
from tests.servers import RedisServer

pytestmark = pytest.mark.redis

HUBS, CUTS = 12, 150


async def reachable_again(server: RedisServer) -> list[bool]:
    """Cuts the connections of several hubs at random moments; which hubs reach Redis afterwards."""
    proxy, rng = Proxy(server.url), random.Random(3)
    hubs = [ReplyHub.connect(QueueSettings(redis_url=SecretStr(proxy.url))) for _ in range(HUBS)]
    try:
        await asyncio.gather(*(hub.start(10) for hub in hubs))
        for _ in range(CUTS):
            proxy.cut()
            await asyncio.sleep(rng.uniform(0.001, 0.02))
        async with asyncio.timeout(20):
            while any(hub.alive and not hub.reachable for hub in hubs):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
        return [hub.alive and hub.reachable for hub in hubs]
    finally:
        await asyncio.gather(*(hub.stop() for hub in hubs))
        proxy.close()


def test_a_connection_may_be_cut_at_any_moment(redis_server: RedisServer) -> None:
    """uvloop raises RuntimeError for a connection that was closed while redis-py was setting it up.

    That is not an error of Redis: it ended the loops of the hub, and the API answered 503 until restarted.
    """
    assert uvloop.run(reachable_again(redis_server)) == [True] * HUBS
