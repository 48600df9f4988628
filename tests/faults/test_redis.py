"""Faults 6, 14 to 19, 29 and 30 of docs/guarantees.md: what Redis and the network do."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Callable

import pytest

from batcher.errors import BudgetExceeded, QueueUnavailable
from batcher.messages import Prediction, entry_id
from tests.faults.conftest import HubAndWorkers, P
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


async def test_fault_06_the_reply_to_enqueue_is_lost_one_entry(
    service: HubAndWorkers, proxies: Callable[[str], Proxy]
) -> None:
    proxy = proxies(service.redis.url)
    await service.start(url=proxy.url, stub_batch_ms=100)
    await service.check("teaches Redis the scripts")
    await service.until(lambda: service.computed() == 1, "the worker's record")
    proxy.lose("answers")
    asking = asyncio.create_task(service.check("the reply is lost"))
    await service.until(
        lambda: service.client.exists(f"{P}:res:{entry_id('the reply is lost')}"), "the result"
    )
    proxy.heal()
    proxy.cut()
    await asking
    await service.until(lambda: service.computed() > 1, "the worker's record")
    assert service.computed() == 2
    await service.empty()


def test_fault_14_redis_stopped_and_back_503_fast_and_recovery_without_restart(
    start_service: Callable[..., Service], redis_server: RedisServer
) -> None:
    made = start_service(redis=redis_server)
    assert made.predict("known").status_code == 200
    redis_server.kill()
    wait_until(lambda: made.http.get("/readyz").status_code == 503, "readiness to go")
    took = []
    for number in range(10):
        began = time.monotonic()
        refused = made.predict(f"unknown {number}")
        took.append(time.monotonic() - began)
        assert (refused.status_code, refused.json()["code"]) == (503, "redis_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    assert statistics.median(took) < 1
    assert made.predict("known").headers["x-cache"] == "HIT"
    redis_server.start()
    made.wait_ready()
    assert made.predict("unknown before").status_code == 200
    assert made.api.said().count("redis.lost") == made.api.said().count("redis.back") == 1


def test_a_cache_that_hangs_costs_hits_and_nothing_else(
    start_service: Callable[..., Service], redis_servers: Callable[..., RedisServer]
) -> None:
    cache = redis_servers()
    made = start_service(cache_url=cache.url, local_cache_entries=0)
    assert made.predict("known").headers["x-cache"] == "MISS"
    wait_until(lambda: made.predict("known").headers["x-cache"] == "HIT", "the cache to be written")
    cache.pause()
    took = []
    for number in range(40):
        began = time.monotonic()
        answer = made.predict("known", f"unknown {number}")
        took.append(time.monotonic() - began)
        assert (answer.status_code, answer.headers["x-cache"]) == (200, "MISS")
        time.sleep(0.05)
    assert statistics.median(took) < 0.3, took
    assert "millrace_cache_outages_total 1.0" in made.http.get("/metrics").text
    cache.resume()
    wait_until(lambda: made.predict("known").headers["x-cache"] == "HIT", "the cache to be back")

    def noticed() -> bool:  # the worker tries the cache again with a later write
        assert made.predict(f"unknown at {time.monotonic()}").status_code == 200
        return "cache.back" in made.workers[0].said()

    wait_until(noticed, "the worker to notice")
    for process in (made.api, made.workers[0]):
        assert process.said().count("cache.lost") == process.said().count("cache.back") == 1
    assert "redis.lost" not in made.logs()


async def test_fault_15_redis_restarts_empty_outstanding_ids_are_asked_again(service: HubAndWorkers) -> None:
    await service.start(stub_batch_ms=150, batch_tokens=16, lease_ms=1000)
    asking = [asyncio.create_task(service.check(f"text {i}")) for i in range(30)]
    await service.until(lambda: service.in_flight(), "a claim")
    await asyncio.to_thread(service.redis.restart, empty=True)
    done = await asyncio.gather(*asking, return_exceptions=True)
    refused = [outcome for outcome in done if isinstance(outcome, QueueUnavailable)]
    assert len(refused) + sum(isinstance(outcome, list) for outcome in done) == 30, done
    assert len(refused) < 30 or service.hub.outages == 1
    await service.ready(1)
    await service.check("and it works on")
    await service.empty()


async def test_fault_16_a_failover_loses_writes_and_brings_back_old_ones(service: HubAndWorkers) -> None:
    """Redis goes back to its append-only file of a moment ago, as a replica that lagged would."""
    await service.start(workers=0, lease_ms=1000, stub_batch_ms=10)
    service.add_worker()
    await service.ready(1)
    service.workers[0].kill()
    await service.until(lambda: not service.hub.snapshot.workers, "the record to end")
    service.add_worker(stub_batch_ms=300)
    await service.ready(1)
    old = asyncio.create_task(service.check("waits in the old state"))
    await service.until(
        lambda: service.client.exists(f"{P}:entry:{entry_id('waits in the old state')}"), "it"
    )
    kept = service.redis.directory / "kept"
    kept.mkdir()
    for part in service.redis.appended():
        (shutil.copytree if part.is_dir() else shutil.copy)(part, kept / part.name)
    await old
    lost = asyncio.create_task(service.check("written after the old state"))
    await service.until(lambda: service.in_flight(), "the claim")
    await asyncio.to_thread(_go_back, service.redis)
    (done,) = await asyncio.gather(lost, return_exceptions=True)
    assert isinstance(done, (list, QueueUnavailable)), done
    await service.ready(1)
    await service.check("and it works on", "waits in the old state")
    await service.empty()


def _go_back(server: RedisServer) -> None:
    server.kill()
    server.forget()
    for part in (server.directory / "kept").iterdir():
        part.rename(server.directory / part.name)
    server.start()


async def test_fault_17_scripts_flushed_again_and_again(service: HubAndWorkers) -> None:
    await service.start(workers=2, stub_batch_ms=5)
    asking = [asyncio.create_task(service.check(f"text {i}")) for i in range(100)]
    while not all(task.done() for task in asking):
        service.client.script_flush()
        await asyncio.sleep(0.01)
    await asyncio.gather(*asking)
    assert service.hub.outages == 0
    await service.empty()


async def test_fault_18_memory_is_full_refused_honestly_and_back(service: HubAndWorkers) -> None:
    await service.start(stub_batch_ms=200, lease_ms=1000)
    running = asyncio.create_task(service.check("was accepted before"))
    await service.until(lambda: service.in_flight(), "the claim")
    service.client.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable):
        await service.ask("no room", budget_s=1)
    await asyncio.sleep(1)
    service.client.config_set("maxmemory", 0)
    (done,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(done, (list, QueueUnavailable)), done
    await service.until(lambda: service.hub.reachable and service.hub.snapshot.workers, "the way back")
    await service.check("room again")
    await service.empty()


async def test_fault_19_an_evicted_entry_is_asked_again_or_a_timeout_never_a_wrong_label(
    service: HubAndWorkers,
) -> None:
    await service.start(stub_batch_ms=300)
    asking = [asyncio.create_task(service.ask(f"text {i}", budget_s=5)) for i in range(10)]
    await asyncio.sleep(0.1)
    for key in service.client.scan_iter(f"{P}:entry:*"):
        service.client.delete(key)
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert all(
        isinstance(outcome, BudgetExceeded) or isinstance(outcome[0], Prediction) for outcome in done
    ), done
    await service.check(*(f"text {i}" for i in range(10)))
    await service.empty()


async def test_fault_29_foreign_bytes_in_the_lists_are_skipped(service: HubAndWorkers) -> None:
    await service.start()
    for lane in ("q", "bulk", "solo"):
        service.client.rpush(f"{P}:{lane}", b"\xff\x00", b"", b"unknown", b"x" * 100_000)
    service.client.zadd(f"{P}:inflight", {b"\xff unknown": 1})
    await service.check(*(f"text {i}" for i in range(10)))
    await service.empty()
    assert service.workers[0].running


@pytest.mark.parametrize("hurt", ["slow", "strand", "cut"])
async def test_fault_30_a_bad_network_mixes_no_replies_up(
    service: HubAndWorkers, proxies: Callable[[str], Proxy], hurt: str
) -> None:
    """Slow pieces, connections gone silent or cut: right answers and refusals, and in the end only right."""
    proxy = proxies(service.redis.url)
    await service.start(workers=0, url=proxy.url, lease_ms=1000, stub_batch_ms=20)
    service.add_worker(url=proxy.url)
    service.add_worker()
    await service.ready(2)

    async def client(number: int) -> None:
        turn = 0
        while turn < 15:
            try:
                await service.check(f"{hurt} {number} {turn}", f"more {number} {turn}", budget_s=10)
                turn += 1
            except QueueUnavailable:
                await asyncio.sleep(0.1)

    clients = [asyncio.create_task(client(number)) for number in range(20)]
    if hurt == "slow":
        proxy.slow(0.05)
    for _ in range(3):
        await asyncio.sleep(0.3)
        if hurt == "strand":
            proxy.strand()
        elif hurt == "cut":
            proxy.cut()
    await asyncio.gather(*clients)
    proxy.heal()
    await service.until(lambda: service.hub.reachable, "the way back")
    await service.check("and it works on")
    await service.empty()
