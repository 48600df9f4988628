"""Faults 1 to 10 and 25 to 28 of docs/guarantees.md: what workers meet."""

from __future__ import annotations

import asyncio
import re
import signal
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from batcher.connection.clients import connect
from batcher.core.keys import cache_key
from batcher.errors import EntryFailed, EntryPoisoned
from batcher.hub import hub
from batcher.messages import Prediction, entry_id
from batcher.worker.stats import WorkerStats, model_record
from model_store.stub import StubClassifier
from tests.answers import right
from tests.fakes import heartbeat_queue
from tests.faults.conftest import HubAndWorkers, P
from tests.proxy import Proxy
from tests.service import Process
from tests.signing import SIGNED

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


async def test_fault_01_a_worker_killed_idle_takes_nothing_along(service: HubAndWorkers) -> None:
    await service.start(workers=2, lease_ms=400)
    service.workers[0].kill()
    await service.check(*(f"text {i}" for i in range(20)))
    await service.until(lambda: service.hub.snapshot.workers == 1, "the dead worker's record to end")
    await service.empty()


async def test_fault_02_killed_in_the_window_the_entry_is_still_in_the_list(service: HubAndWorkers) -> None:
    """An eager stream makes the worker keep a window of half a batch; it dies inside one."""
    await service.start(stub_batch_ms=200, window_ms=1000, lease_ms=1000)
    for attempt in range(10):
        await asyncio.gather(*(service.check(f"warm {attempt} {i}") for i in range(30)))
        asking = asyncio.create_task(service.check(f"in the window {attempt}"))
        await service.until(
            lambda asking=asking: service.client.llen(f"{P}:q") or asking.done(), "the entry to be queued"
        )
        if asking.done():  # the worker was so slow that the stream has ended for it: it kept no window
            continue
        await asyncio.sleep(0.02)
        service.workers[-1].kill()
        taken = service.in_flight()
        waiting = service.client.llen(f"{P}:q")
        service.add_worker()
        await asking
        if not taken:
            assert waiting == 1
            return
        await service.ready(1)
    raise AssertionError("the worker was never caught inside its window")


async def test_fault_03_killed_after_its_claim_another_answers(service: HubAndWorkers) -> None:
    await service.start(workers=2, stub_batch_ms=300, lease_ms=500)
    asking = [asyncio.create_task(service.check(f"text {i}", f"more {i}")) for i in range(10)]
    await service.until(lambda: service.in_flight(), "a claim")
    service.workers[0].kill()
    await asyncio.gather(*asking)
    await service.empty()
    assert service.client.llen(f"{P}:dead") == 0


async def test_fault_04_killed_after_the_pass_computed_twice_answered_once(
    service: HubAndWorkers, proxies: Callable[[str], Proxy]
) -> None:
    """The first worker's results never reach Redis: its proxy swallows them, then it is killed."""
    proxy = proxies(service.redis.url)
    await service.start(workers=0, lease_ms=500, stub_batch_ms=100)
    victim = service.add_worker(url=proxy.url, batch_timeout_s=60)
    await service.ready(1)
    asking = asyncio.create_task(service.check("computed twice"))
    await service.until(lambda: service.in_flight(), "the claim")
    proxy.lose("requests")
    await asyncio.sleep(0.3)
    victim.kill()
    service.add_worker()
    await asking
    await service.empty()
    assert service.client.llen(f"{P}:reply:{service.hub.parts[0].api}") == 0


async def test_fault_05_the_reply_to_complete_is_lost_and_it_is_sent_again(
    service: HubAndWorkers, proxies: Callable[[str], Proxy]
) -> None:
    """A worker by hand, so that nothing but `complete` is hit."""
    proxy = proxies(service.redis.url)
    client = connect(proxy.url, timeout_s=2.0, retries=0)
    queue = heartbeat_queue(client, "default", "by hand", lease_ms=5000, max_attempts=3, result_ms=60_000)
    info = StubClassifier(variant="signed").info
    queue.heartbeat((), WorkerStats().record(info, "idle"), model_record(info), ttl_ms=60_000, takeover=True)
    queue.complete([("f" * 64, b"no client asks")])  # teaches Redis the script
    await service.add_hub()
    await service.ready(1)
    asking = asyncio.create_task(service.check("the reply is lost"))
    await service.until(lambda: service.client.llen(f"{P}:q"), "the entry")
    (entry,) = (await asyncio.to_thread(queue.claim, 10, 1000, 1000)).entries
    result = Prediction(right(entry.text, model=SIGNED)[0], info.revision, 1, model=info.name).encode()
    proxy.lose("answers")
    with pytest.raises(redis.exceptions.TimeoutError):
        await asyncio.to_thread(queue.complete, [(entry.id, result)])
    proxy.heal()
    await asking
    assert await asyncio.to_thread(queue.complete, [(entry.id, result)]) == 0, "the first one counted"
    assert service.client.llen(f"{P}:reply:{service.hub.parts[0].api}") == 0
    client.close()
    await service.empty()


async def test_what_a_frozen_worker_asked_for_in_advance_costs_a_text_a_lease_at_most(
    service: HubAndWorkers,
) -> None:
    """An idle worker's next claim waits in Redis, which runs it unless the worker froze a lease ago."""
    lease_ms = 3000
    await service.start(lease_ms=lease_ms)
    await service.check("after this the worker waits")
    await service.until(
        lambda: service.client.info("clients")["blocked_clients"] == 2, "hub and worker to wait"
    )
    service.workers[0].kill(signal.SIGSTOP)
    asking = asyncio.create_task(service.check("asked for by a frozen worker"))
    place = await service.until(
        lambda: (
            service.client.zrange(f"{P}:inflight", 0, -1, withscores=True)
            or service.client.llen(f"{P}:q")
            or asking.done()
        ),
        "the text to wait or to be claimed",
    )
    assert not asking.done(), await asking
    claimed = place if isinstance(place, list) else []
    seconds, micros = service.client.time()
    assert all(ends_ms <= seconds * 1000 + micros / 1000 + lease_ms for _, ends_ms in claimed)
    service.add_worker()
    await asking
    assert service.client.llen(f"{P}:dead") == 0
    await service.empty()


@pytest.mark.parametrize("fate", ["killed", "frozen", "cut off"])
async def test_a_wake_up_that_reaches_no_worker_is_replaced(
    service: HubAndWorkers, proxies: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Each text first wakes a worker that cannot claim. Nothing sweeps; the other worker waits for 2 s."""
    lease_ms = 2000
    await service.start(lease_ms=lease_ms)
    proxy = proxies(service.redis.url)
    worker = service.add_worker(proxy.url)
    await service.ready(2)
    (lost,) = (record.id for record in await service.hub.workers() if f"-{worker.pid}-" in record.id)
    await service.until(lambda: service.client.zcard(f"{P}:idle") == 2, "both workers to be idle")
    swept = service.hub.parts[0].snapshot
    monkeypatch.setattr(hub, "SWEEP_EVERY_S", 600.0)
    await service.until(lambda: service.hub.parts[0].snapshot is not swept, "the sweep that is due")
    if fate == "killed":
        worker.kill()
    elif fate == "frozen":
        worker.kill(signal.SIGSTOP)
    else:
        proxy.lose("requests")
        proxy.lose("answers")
    if fate != "killed":
        # Until then, Redis takes it for a worker that works: what it claims now waits for a lease at most.
        await asyncio.sleep(lease_ms / 1000 + 0.1)
    waits_ms = []
    for number in range(21):
        service.client.zadd(f"{P}:idle", {lost: 10**15})
        (outcome,) = await service.check(f"text {number}")
        waits_ms.append(outcome.queue_ms)
    assert statistics.median(waits_ms) < 500, "not left to the end of an idle worker's wait"
    await service.empty()


async def test_fault_07_a_hanging_worker_loses_its_lease_and_ends_itself(service: HubAndWorkers) -> None:
    await service.start(workers=3, lease_ms=400, batch_timeout_s=0.8, max_attempts=2)
    outcomes = await service.ask("\0hang", *(f"neighbour {i}" for i in range(5)), budget_s=30)
    assert isinstance(outcomes[0], EntryPoisoned)
    assert [type(outcome) for outcome in outcomes[1:]] == [Prediction] * 5
    await service.until(lambda: not any(worker.running for worker in service.workers), "three watchdogs")
    assert {worker.wait() for worker in service.workers} == {70}
    await service.empty()


async def test_fault_08_a_lease_outlives_a_lock_held_longer_than_a_beat(service: HubAndWorkers) -> None:
    await service.start(workers=2, lease_ms=4000)
    (outcome,) = await service.ask("\0gil:1.6 long")  # heartbeats are due every second
    assert isinstance(outcome, Prediction)
    assert service.hub.counts.recovered == 0
    assert service.client.llen(f"{P}:dead") == 0
    await service.empty()


async def test_fault_09_an_exception_fails_its_own_text_only(service: HubAndWorkers) -> None:
    await service.start(workers=2, stub_batch_ms=50)
    outcomes = await service.ask(*(f"good {i}" for i in range(10)), "\0raise", "good too")
    assert [type(outcome) for outcome in outcomes] == [Prediction] * 10 + [EntryFailed, Prediction]


async def test_fault_10_a_text_that_kills_workers_ends_after_three_and_its_neighbours_are_answered(
    service: HubAndWorkers,
) -> None:
    """The first of four deaths is in a batch and only makes the text a suspect."""
    await service.start(workers=5, lease_ms=1000)
    asking = [asyncio.create_task(service.check(f"neighbour {i}")) for i in range(12)]
    (outcome,) = await service.ask("\0kill")
    assert isinstance(outcome, EntryPoisoned)
    await asyncio.gather(*asking)
    assert sum(not worker.running for worker in service.workers) == 4
    (dead,) = service.client.lrange(f"{P}:dead", 0, -1)
    assert dead.startswith(f"{entry_id(chr(0) + 'kill')} poison attempts=3 ".encode())
    (again,) = await service.ask("\0kill")
    assert isinstance(again, EntryPoisoned), "asked again it ends no further worker"
    await service.empty()


async def test_fault_25_sigterm_in_a_batch_finishes_it_and_gives_back_the_rest(
    service: HubAndWorkers,
) -> None:
    await service.start(stub_batch_ms=150, batch_tokens=16, lease_ms=3000)
    asking = [asyncio.create_task(service.check(f"text {i}")) for i in range(30)]
    await service.until(lambda: service.in_flight(), "a claim")
    assert service.workers[0].stop() == 0
    assert service.in_flight() == 0, "nothing is left to a lease"
    service.add_worker(stub_batch_ms=1)
    await asyncio.gather(*asking)
    assert service.hub.counts.recovered == 0
    await service.empty()


async def test_fault_26_with_no_worker_left_what_was_in_flight_returns_to_the_list(
    service: HubAndWorkers,
) -> None:
    await service.start(stub_batch_ms=400, lease_ms=300)
    asking = asyncio.create_task(service.check("held by the last worker"))
    await service.until(lambda: service.in_flight(), "the claim")
    service.workers[0].kill()
    await service.until(lambda: service.client.llen(f"{P}:solo") == 1, "the sweep of the API")
    assert service.in_flight() == 0
    service.add_worker(stub_batch_ms=1)
    await asking


async def test_fault_27_a_clock_step_on_one_host_has_no_effect(
    service: HubAndWorkers, tmp_path: Path
) -> None:
    """The worker's wall clock is three days ahead; all times of the queue are the Redis clock's."""
    patch = "import time\n_real = time.time\ntime.time = lambda: _real() + 259200\n"
    (tmp_path / "sitecustomize.py").write_text(patch)
    await service.start(workers=0, stub_batch_ms=200, lease_ms=600)
    service.add_worker(environment={"PYTHONPATH": str(tmp_path)})
    await service.ready(1)
    (record,) = await service.hub.workers()
    seconds, _ = service.client.time()
    assert record.started_ms > (seconds + 2 * 86400) * 1000, "its clock is ahead"
    for outcome in await service.check(*(f"text {i}" for i in range(20))):
        assert 0 <= outcome.queue_ms < 60_000
    assert service.hub.counts.recovered == 0
    await service.empty()


async def test_fault_28_two_revisions_answer_under_their_own_names(service: HubAndWorkers) -> None:
    await service.start(workers=0, stub_batch_ms=5)
    for reference in ("stub@signed-one", "stub@signed-two"):
        service.add_worker(model=reference)
    await service.ready(2)
    revisions = {record.revision for record in await service.hub.workers()}
    assert len(revisions) == 2
    answered: set[str] = set()
    for first in range(0, 10_000, 200):  # one worker may be faster than the other
        asked = await asyncio.gather(*(service.check(f"text {i}") for i in range(first, first + 200)))
        answered |= {outcome.revision for (outcome,) in asked}
        if answered >= revisions:
            break
    assert answered == revisions
    for number, (outcome,) in enumerate(asked, first):
        entry = entry_id(f"text {number}")
        key = cache_key("default", outcome.revision, entry)
        (other,) = revisions - {outcome.revision}
        await service.until(lambda key=key: service.client.exists(key), "the shared cache")
        assert not service.client.exists(cache_key("default", other, entry))


async def test_finding_06a_after_a_change_of_models_the_new_one_answers(service: HubAndWorkers) -> None:
    """The old model answered for a minute from the results that are kept for those who wait."""
    await service.start(workers=0)
    old = service.add_worker(model="stub@signed-old")
    await service.ready(1)
    (before,) = await service.check("asked twice")
    assert old.stop() == 0
    service.add_worker(model="stub@signed-new")
    await service.until(
        lambda: service.hub.snapshot.model and service.hub.snapshot.model.revision != before.revision,
        "the new model",
    )
    (after,) = await service.check("asked twice")
    assert after.revision != before.revision
    (worker,) = await service.hub.workers()
    assert after.revision == worker.revision


async def test_leases_that_end_while_their_workers_live_make_no_text_poison(service: HubAndWorkers) -> None:
    """Found by fault 10 on a busy machine: late heartbeats counted as deaths, and texts as poison."""
    await service.start(stub_batch_ms=1500, batch_timeout_s=60, lease_ms=300, max_attempts=2)
    asking = asyncio.create_task(service.check("held long"))
    for _ in range(4):
        await service.until(lambda: service.in_flight() or asking.done(), "a claim")
        service.client.zadd(f"{P}:inflight", {entry_id("held long"): 1}, xx=True)
        await asyncio.sleep(0.35)
    await asking
    assert service.client.llen(f"{P}:dead") == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_worker_told_to_stop_takes_its_record_along(
    service: HubAndWorkers, how: signal.Signals
) -> None:
    await service.start()
    worker: Process = service.workers[0]
    worker.kill(how)
    assert worker.wait(10) == 0
    assert list(service.client.scan_iter(f"{P}:worker:*")) == []
    assert not re.search(r"Traceback|ERROR", worker.said())
