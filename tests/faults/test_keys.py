"""What stands in Redis once everything has run: no key without an end but those that docs/redis.md names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.servers import RedisServer, leftovers
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
PAGE = Path(__file__).parents[2] / "docs/redis.md"
P = "{millrace:2:default}"
RUNNING = "rq:wip:millrace-jobs:default"


def named() -> set[str]:
    """The keys that the documents say have no end."""
    section = PAGE.read_text().partition("## Keys that do not expire")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {
        key.replace("P:", f"{P}:", 1).replace("NAME", "default")
        for row in rows
        for key in re.findall(r"`([^`]+)`", row)
    }


def endless(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter("*", count=1000) if client.pttl(key) == -1}


def test_finding_22_every_key_ends_but_those_that_the_docs_name(
    start_service: Callable[..., Service], redis_server: RedisServer
) -> None:
    made = start_service(
        workers=2,
        redis=redis_server,
        lease_ms=400,
        stub_batch_ms=5,
        result_ttl_s=1,
        cache_ttl_s=1,
        job_ttl_s=60,
        max_attempts=1,
    )
    made.start_jobs()
    assert made.predict("known", "more", "known").status_code == 200
    assert made.predict("known").headers["x-cache"] == "HIT"
    assert made.predict("\0raise this one").status_code == 500
    assert made.predict("late", Prefer="wait=0.001").status_code == 504
    _poison(made)
    _jobs(made)
    made.workers[1].stop()
    made.start_worker().kill()
    with redis_server.client() as client:
        wait_until(lambda: not leftovers(client), "the queue to be empty")
        wait_until(lambda: not client.exists(RUNNING), "RQ to finish the jobs whose results are stored")
        for _ in range(30):
            found = endless(client)
            assert found <= named(), found - named()
            time.sleep(0.1)
        wait_until(lambda: not list(client.scan_iter("millrace:cache:*")), "the cache to end")
        assert {f"{P}:model", f"{P}:clock", f"{P}:dead"} <= endless(client), "this test has run everything"


def _poison(made: Service) -> None:
    """A text that ends workers; they are started again as often as it takes."""
    for _ in range(8):
        if made.predict("\0kill", Prefer="wait=3").status_code == 422:
            return
        made.start_worker()
    raise AssertionError("the text was never called poison")


def _jobs(made: Service) -> None:
    """One job that ends, one that fails in part, one that is cancelled, one that is deleted."""
    for _ in range(2):  # the second one decides whether a text fails
        made.start_worker()
    paths = []
    for texts in (["a", "b"], ["\0raise in a job"], ["c"] * 20, ["d"]):
        answer = made.http.post("/jobs", json={"text": texts})
        assert answer.status_code == 202, answer.text
        paths.append(answer.headers["location"])
    made.http.delete(paths[2])

    def ended() -> bool:
        states = [made.http.get(path).json().get("status") for path in paths]
        return all(state in ("finished", "failed", "cancelled", None) for state in states)

    wait_until(ended, "every job to end", 60)
    assert made.http.get(f"{paths[0]}/predictions").status_code == 200
    assert made.http.delete(paths[3]).status_code in (200, 202, 204)
    assert made.http.get("/jobs").status_code == 200
