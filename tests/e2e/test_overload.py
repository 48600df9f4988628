"""A real service with more to do than it can: refusals say when to come back, and that is right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.service import Service

pytestmark = pytest.mark.redis

TEXTS = 4
BURST = 60
# The stub sleeps for most of the time that a text takes, so that a busy machine hardly changes the rate.
STUB = {"stub_batch_ms": 10, "stub_token_ms": 2}


async def ask(client: httpx.AsyncClient, name: str) -> httpx.Response:
    """POST /predict of texts that no client has asked for."""
    texts = [f"request {name} asks for text {number}" for number in range(TEXTS)]
    return await client.post("/predict", json={"text": texts})


async def obey(client: httpx.AsyncClient, name: str, refused: httpx.Response) -> int:
    """Comes back as asked. Returns the status of the answer."""
    assert refused.json()["code"] == "queue_full"
    await asyncio.sleep(int(refused.headers["retry-after"]))
    return (await ask(client, name)).status_code


async def share_taken(client: httpx.AsyncClient, burst: int) -> float:
    """The share of a burst's refused requests that are answered when they come back as asked.

    That is none if many were not answered in time: the service had become slower than it knew itself to be.
    """
    first = await asyncio.gather(*(ask(client, f"{burst} {number}") for number in range(BURST)))
    statuses = Counter(answer.status_code for answer in first)
    assert statuses.keys() <= {200, 429, 504}, statuses
    assert min(statuses[200], statuses[429]) >= BURST // 10, statuses
    if statuses[504] > BURST // 10:
        return 0.0
    refused = [answer for answer in first if answer.status_code == 429]
    again = [obey(client, f"{burst} again {number}", one) for number, one in enumerate(refused)]
    return (await asyncio.gather(*again)).count(200) / len(refused)


async def test_who_comes_back_as_told_is_taken(start_service: Callable[..., Service]) -> None:
    running = start_service(default_budget_s=2, max_client_texts=0, **STUB)
    limits = httpx.Limits(max_connections=BURST)
    async with httpx.AsyncClient(base_url=running.base_url, timeout=30, limits=limits) as client:
        for warming in range(4):  # until the service knows its own rate
            assert (await ask(client, f"warming {warming}")).status_code == 200
        await asyncio.sleep(1.5)
        shares: list[float] = []
        while not shares or shares[-1] < 0.9:
            assert len(shares) < 3, (
                f"{shares}: one burst may meet a pause of a busy machine, not each of three"
            )
            shares.append(await share_taken(client, len(shares)))
