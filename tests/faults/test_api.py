"""Faults 11 to 13 and 20 of docs/guarantees.md: what API processes and their clients do."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from batcher.errors import QueueFull
from batcher.messages import Prediction, entry_id
from tests.faults.conftest import HubAndWorkers, P
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def test_fault_11_an_api_that_dies_waiting_leaves_nothing(start_service: Callable[..., Service]) -> None:
    """Its work finishes into the cache; entries go, and its hints expire."""
    made = start_service(stub_batch_ms=1000, result_ttl_s=1)
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


async def test_fault_12_five_hundred_cancelled_requests_close_no_connection(service: HubAndWorkers) -> None:
    await service.start(stub_batch_ms=100, batch_tokens=32)
    await asyncio.gather(*(service.check(f"warm {i}") for i in range(20)))
    before = {record["id"] for record in service.client.client_list()}
    asking = [asyncio.create_task(service.ask(f"text {i}")) for i in range(500)]
    for number, task in enumerate(asking):
        if number % 50 == 0:
            await asyncio.sleep(0.02)
        task.cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in done) > 400
    await service.empty()
    await service.check("and it works on")
    after = {record["id"] for record in service.client.client_list()}
    assert before <= after, "a connection was closed"
    assert service.hub.outages == 0
    assert service.hub.waiting == 0


async def test_fault_13_hints_that_are_lost_cost_half_a_second_not_the_answer(service: HubAndWorkers) -> None:
    """Another reader steals every hint; the slow poll finds the results."""
    await service.start(stub_batch_ms=100)
    await service.check("teaches Redis the scripts")
    asking = asyncio.create_task(service.check("the hint gets lost"))
    result, there_at = f"{P}:res:{entry_id('the hint gets lost')}", 0.0
    while not asking.done():
        service.client.delete(f"{P}:reply:{service.hub.parts[0].api}")
        if not there_at and service.client.exists(result):
            there_at = time.monotonic()
        await asyncio.sleep(0)
    await asking
    if there_at:  # else the hint was faster than the thief
        assert time.monotonic() - there_at < 10, "the budget of 20 s found it, not the poll"
    await service.empty()


async def test_fault_20_a_full_queue_refuses_fast_and_joins_are_free(service: HubAndWorkers) -> None:
    """The worker stands still, so that the queue stays full."""
    await service.start(lease_ms=60_000, batch_texts=1, max_waiting_cost=40)
    service.workers[0].kill(signal.SIGSTOP)
    held = [asyncio.create_task(service.ask(f"held {i}", budget_s=60)) for i in range(8)]
    await service.until(lambda: service.client.llen(f"{P}:q") >= 5, "a full lane")
    took, refusals = [], []
    for number in range(30):
        began = time.process_time()
        with pytest.raises(QueueFull) as refused:
            await service.ask(f"refused {number} " + "many words " * 10)
        took.append(time.process_time() - began)
        refusals.append(refused.value.retry_after_s)
    assert statistics.median(took) < 0.010, took
    assert all(wait_s is not None and 1 <= wait_s <= 60 for wait_s in refusals)
    joined = service.hub.counts.joined
    other = await service.add_hub()
    await service.until(lambda: other.snapshot.workers, "the other hub to see a worker")
    joining = [asyncio.create_task(service.ask(f"held {i}", hub=other, budget_s=60)) for i in range(8)]
    await service.until(lambda: other.counts.joined == 8, "the other hub to join what waits or runs")
    service.workers[0].kill(signal.SIGCONT)
    for (outcome,) in await asyncio.gather(*held, *joining):
        assert isinstance(outcome, Prediction)
    assert joined == service.hub.counts.joined
    await service.empty()
