"""A long job while one process after the other is killed, with memory of the API watched."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.texts import texts
from tests.e2e.test_jobs_faults import ENDED, SLOW, expected, hand_in
from tests.service import Process, Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

COUNT, LARGE = 4000, 10_000
MIB = 1024 * 1024


def ask(service: Service, path: str, **options: Any) -> httpx.Response | None:
    """The answer, or None while no API process runs."""
    try:
        answer = service.http.get(path, **options)
    except httpx.TransportError:
        return None
    return answer if answer.status_code == 200 else None


def look(service: Service, path: str) -> dict[str, Any]:
    answer: httpx.Response = wait_until(lambda: ask(service, path), "an answer", 60)
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_whatever_is_killed_the_job_finishes_in_order(
    start_service: Callable[..., Service], seed: int
) -> None:
    service, rng, asked = start_service(**SLOW), random.Random(seed), texts(COUNT, seed)
    jobs: list[Process] = [service.start_jobs()]

    def kill_api() -> None:
        service.api.kill()
        service.start_api()

    def kill_worker() -> None:
        service.workers[-1].kill()
        service.start_worker()

    def kill_jobs() -> None:
        jobs[-1].kill()
        jobs.append(service.start_jobs())

    def kill_redis() -> None:
        service.redis.kill()
        time.sleep(rng.random())
        service.redis.start()

    def moved(done: int) -> bool:
        job = look(service, path)
        return job["done"] > done or job["status"] in ENDED

    path = hand_in(service, asked)
    kills = [kill_api, kill_worker, kill_jobs, kill_redis]
    rng.shuffle(kills)
    done = 0
    for kill in kills:
        wait_until(partial(moved, done), "progress", 90)
        kill()
        done = look(service, path)["done"]
    wait_until(lambda: look(service, path)["status"] in ENDED, "the end", 90)
    job = look(service, path)
    assert (job["status"], job["done"], job["failed"]) == ("finished", COUNT, 0)
    options = {"params": {"limit": COUNT}, "headers": {"accept": "application/x-ndjson"}}
    answer = wait_until(lambda: ask(service, f"{path}/predictions", **options), "the results")
    assert [json.loads(line) for line in answer.text.splitlines()] == expected(asked)
    with service.redis.client() as client:
        left = [f"{{millrace:2:default}}:{name}" for name in ("q", "bulk", "solo", "inflight")]
        wait_until(lambda: not any(client.exists(key) for key in left), "empty lanes")
        wait_until(
            lambda: not list(client.scan_iter("{millrace:2:default}:entry:*", count=1000)), "no entries"
        )
        endless = {key for key in client.scan_iter(count=1000) if client.ttl(key) == -1}
    assert {key for key in endless if not key.startswith(b"rq:")} == {
        b"{millrace:2:default}:model",
        b"{millrace:2:default}:clock",
    }


def test_the_api_holds_no_more_than_a_chunk_of_a_job(start_service: Callable[..., Service]) -> None:
    service, asked = start_service(), texts(LARGE)
    service.start_jobs()
    api = psutil.Process(service.api.pid)
    look_at = {"params": {"limit": LARGE}, "headers": {"accept": "application/x-ndjson"}}
    service.http.get(hand_in(service, asked[:300]) + "/predictions", **look_at)
    before = api.memory_info().rss
    path = hand_in(service, asked * 5)
    after_upload = api.memory_info().rss
    wait_until(lambda: look(service, path)["status"] == "finished", "the end", 90)
    with service.http.stream("GET", f"{path}/predictions", params={"limit": 5 * LARGE}) as answer:
        size = sum(len(block) for block in answer.iter_bytes())
    assert size > 3 * MIB
    assert after_upload - before < 25 * MIB
    assert api.memory_info().rss - before < 50 * MIB
