"""Faults 11 to 13 and 20 of docs/guarantees.md: what API processes and their clients do."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from batcher.errors import QueueFull
from batcher.messages import entry_id
from tests.faults.conftest import P, Road
from tests.mill import Mill, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def test_fault_11_an_api_that_dies_waiting_leaves_nothing(mill: Callable[..., Mill]) -> None:
    """Its work finishes into the cache; entries go, and what it would have been told ends by itself."""
    made = mill(stub_batch_ms=1000, result_ttl_s=1)
    with made.redis.client() as client, ThreadPoolExecutor(20) as pool:
        before = {key for key in client.keys("*") if b":reply:" not in key}
        asked = [pool.submit(made.predict, f"text {number}") for number in range(20)]
        wait_until(lambda: client.zcard(f"{P}:inflight"), "a claim")
        made.api.kill()
        assert all(isinstance(answer.exception(), httpx.TransportError) for answer in asked)
        wait_until(lambda: not list(client.scan_iter(f"{P}:entry:*")), "the entries to be finished")
        wait_until(lambda: not list(client.scan_iter(f"{P}:res:*")), "the results to end")
        left = set(client.keys("*")) - before
        assert all(client.ttl(key) > 0 for key in left), left
        cached = [key for key in left if key.startswith(b"millrace:cache:")]
        assert cached, "the work was not for nothing"
        assert all(
            b":reply:" in key for key in left - set(cached) - {f"{P}:waiting".encode(), f"{P}:idle".encode()}
        )
        made.start_api()
        made.wait_ready()
        assert made.predict("text 0").status_code == 200


async def test_fault_12_five_hundred_cancelled_requests_close_no_connection(road: Road) -> None:
    await road.start(stub_batch_ms=100, batch_tokens=32)
    await asyncio.gather(*(road.check(f"warm {i}") for i in range(20)))
    before = {record["id"] for record in road.client.client_list()}
    asking = [asyncio.create_task(road.ask(f"text {i}")) for i in range(500)]
    for number, task in enumerate(asking):
        if number % 50 == 0:
            await asyncio.sleep(0.02)
        task.cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in done) > 400
    await road.empty()
    await road.check("and it works on")
    after = {record["id"] for record in road.client.client_list()}
    assert before <= after, "a connection was closed"
    assert road.hub.outage.count == 0
    assert road.hub.waiting == 0


async def test_fault_13_hints_that_are_lost_cost_half_a_second_not_the_answer(road: Road) -> None:
    """Another reader steals every hint; the slow poll finds the results."""
    await road.start(stub_batch_ms=100)
    await road.check("teaches Redis the scripts")
    asking = asyncio.create_task(road.check("the hint gets lost"))
    result, there_at = f"{P}:res:{entry_id('the hint gets lost')}", 0.0
    while not asking.done():
        road.client.delete(f"{P}:reply:{road.hub.api}")
        if not there_at and road.client.exists(result):
            there_at = time.monotonic()
        await asyncio.sleep(0)
    await asking
    if there_at:  # else the hint was faster than the thief
        assert time.monotonic() - there_at < 10, "the budget of 20 s found it, not the poll"
    await road.empty()


async def test_fault_20_a_full_queue_refuses_fast_and_joins_are_free(road: Road) -> None:
    await road.start(stub_batch_ms=300, batch_texts=1, max_waiting_cost=40)
    held = [asyncio.create_task(road.ask(f"held {i}", budget_s=20)) for i in range(8)]
    await road.until(lambda: road.client.llen(f"{P}:q") >= 4, "a full lane")
    took, refusals = [], []
    for number in range(30):
        began = time.process_time()
        with pytest.raises(QueueFull) as refused:
            await road.ask(f"refused {number} " + "many words " * 10)
        took.append(time.process_time() - began)
        refusals.append(refused.value.retry_after_s)
    assert statistics.median(took) < 0.010, took
    assert all(wait_s is not None and 1 <= wait_s <= 60 for wait_s in refusals)
    joined = road.hub.counts.joined
    other = await road.add_hub()
    await road.until(lambda: other.snapshot.workers, "the other hub to see a worker")
    waiting = [
        text for text in (f"held {i}" for i in range(8)) if road.client.exists(f"{P}:entry:{entry_id(text)}")
    ]
    assert waiting, "some of them still wait"
    done = await asyncio.gather(*(road.ask(text, hub=other) for text in waiting), return_exceptions=True)
    accepted = [outcome for outcome in done if isinstance(outcome, list)]
    assert accepted, "joining what runs is never shed"
    assert other.counts.joined > 0
    assert joined == road.hub.counts.joined
    await asyncio.gather(*held, return_exceptions=True)
    await road.empty()
