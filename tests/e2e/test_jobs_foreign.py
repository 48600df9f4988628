"""Items in RQ's queue that are not jobs of this service are not run, regardless of who put them there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from millrace.settings_loader import free_port
from tests.servers import as_user
from tests.service import Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]
QUEUE = "rq:queue:millrace-jobs:default"


def call(function: str, *args: str) -> bytes:
    return zlib.compress(json.dumps([function, None, args, {}]).encode())


def put(client: redis.Redis, job_id: str, **fields: Any) -> None:
    """A job as RQ writes it, behind those that wait."""
    facts = {
        "created_at": "2026-01-01T00:00:00.000000Z",
        "status": "queued",
        "origin": "millrace-jobs:default",
    }
    client.hset(f"rq:job:{job_id}", mapping={**facts, "timeout": 60, **fields})
    client.sadd("rq:queues", QUEUE)
    client.rpush(QUEUE, job_id)


def hand_in(service: Service, *texts: str) -> str:
    answer = service.http.post("/jobs", json={"text": texts})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(service: Service, job_id: str) -> str:
    return str(service.http.get(f"/jobs/{job_id}").json()["status"])


def test_finding_01_only_the_jobs_of_this_service_are_run(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    port = free_port()
    made = start_service(jobs_port=port)
    marks = [tmp_path / name for name in ("function", "module", "short", "dependent")]
    touch = {mark.name: f"touch {mark}" for mark in marks}
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    hook = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    foreign = [f"{number:032x}" for number in range(4)]
    with made.redis.client() as client:
        put(client, foreign[0], data=call("os.system", touch["function"]))
        put(client, foreign[1], data=call("batcher.jobs.main.os.system", touch["module"]))
        put(client, foreign[2], data=call("batcher.jobs.run", "f" * 32))
        put(client, foreign[3], data=b"\x80\x04 no JSON")
        put(client, "short", data=call("os.system", touch["short"]))
        client.rpush(QUEUE, b"\xff\xfe", "")
        client.rpush(f"{QUEUE}:intermediate", b"\xff\xfe")
        mine = hand_in(made, "one", "two")
        # What a job of this service is made to do beside its work.
        client.hset(
            f"rq:job:{mine}",
            mapping={
                "success_callback_name": "os.getpid",
                "failure_callback_name": "os.getpid",
                "stopped_callback_name": "os.getpid",
                "webhooks": json.dumps([{"url": hook, "job_status": "finished"}]),
                "dependency_ids": json.dumps(["0" * 32]),
                "meta": "no JSON",
                "repeats_left": 5,
                "repeat_intervals": "[0]",
                "group_id": "a group",
                "result": "no JSON",
            },
        )
        put(client, "e" * 32, data=call("os.system", touch["dependent"]))
        client.lrem(QUEUE, 0, "e" * 32)
        client.sadd(f"rq:job:{mine}:dependents", "e" * 32)
        jobs = made.start_jobs()
        wait_until(lambda: status(made, mine) == "finished", "the job among all this")
        wait_until(lambda: client.llen(QUEUE) == 0, "an empty queue")
        assert not client.lrange(f"{QUEUE}:intermediate", 0, -1)
        after = hand_in(made, "three")
        wait_until(lambda: status(made, after) == "finished", "the next job")
        assert client.hget(f"rq:job:{mine}", "status") == b"finished", (
            "no callback was called, or it would fail"
        )
    with listener, pytest.raises(BlockingIOError):
        listener.accept()
    assert jobs.running
    assert not [mark for mark in marks if mark.exists()]
    refused = [json.loads(line) for line in jobs.said().splitlines() if '"job.refused"' in line]
    assert {line["job"] for line in refused} >= {*foreign, "short"}
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert f"millrace_jobs_refused_total {float(len(refused))}" in metrics
    assert jobs.stop() == 0


def test_finding_01_rqs_own_tools_still_show_what_runs(start_service: Callable[..., Service]) -> None:
    made = start_service()
    hand_in(made, "waits")
    url = as_user(made.redis.url, "jobs")
    command = [sys.executable, "-m", "rq.cli", "info", "--url", url, "--raw"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "queue millrace-jobs:default 1" in shown
