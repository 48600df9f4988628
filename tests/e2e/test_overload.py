"""A real mill with more to do than it can: refusals say when to come back, and that is right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.mill import Mill

pytestmark = pytest.mark.redis

TEXTS = 8
BURST = 120


async def test_who_comes_back_as_told_is_taken(mill: Callable[..., Mill]) -> None:
    running = mill(default_budget_s=2, max_client_texts=0, stub_batch_ms=10, stub_token_ms=1)
    limits = httpx.Limits(max_connections=BURST)
    async with httpx.AsyncClient(base_url=running.base_url, timeout=30, limits=limits) as client:

        async def ask(name: str) -> httpx.Response:
            texts = [f"request {name} asks for text {number}" for number in range(TEXTS)]
            return await client.post("/predict", json={"text": texts})

        for warming in range(4):  # until the mill knows its own rate
            assert (await ask(f"warming {warming}")).status_code == 200
        await asyncio.sleep(1.5)
        first = await asyncio.gather(*(ask(f"first {number}") for number in range(BURST)))
        assert {answer.status_code for answer in first} == {200, 429}

        async def obey(number: int, refused: httpx.Response) -> int:
            assert refused.json()["code"] == "queue_full"
            await asyncio.sleep(int(refused.headers["retry-after"]))
            return (await ask(f"again {number}")).status_code

        refused = [answer for answer in first if answer.status_code == 429]
        assert len(refused) >= BURST // 10
        again = await asyncio.gather(*(obey(number, answer) for number, answer in enumerate(refused)))
    assert again.count(200) >= 0.9 * len(again), again
