"""Connections to Redis that are cut while they are being set up, on the event loop that the API runs on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from pydantic import SecretStr

from api.admin import service as console_service
from api.jobs import service as jobs_service
from batcher.hub.hub import ReplyHub
from batcher.jobs import main as jobs_main
from batcher.settings import QueueSettings
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.service import Service, wait_until

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[2]
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


def test_redis_has_as_many_connections_as_docs_redis_says(start_service: Callable[..., Service]) -> None:
    """Nothing said how many a process needs, although managed tiers are sold by that number."""
    service = start_service(workers=2)
    service.start_jobs()
    job = service.http.post("/jobs", json={"text": [f"text {number}" for number in range(3000)]}).json()
    answers = [service.predict(*(f"{number} {text}" for text in range(32))) for number in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    path = f"/jobs/{job['id']}"
    wait_until(lambda: service.http.get(path).json()["status"] == "finished", "the end of the job", 60)
    with service.redis.client() as client:
        found = client.info("clients")["connected_clients"] - 1  # this one
    queue, console, jobs = 3 * 2 + 2 * 2 + 2 + 2 + 4, console_service.THREADS, jobs_service.THREADS
    of_jobs = jobs + jobs_service.UPLOADS + 3 + jobs_main.CONNECTIONS
    assert queue <= found <= queue + console + of_jobs
    page = (ROOT / "docs/redis.md").read_text()
    assert f"at the Redis of jobs {jobs + jobs_service.UPLOADS}, one" in page
    assert f"3 and one for each of its {jobs_main.CONNECTIONS} threads" in page
