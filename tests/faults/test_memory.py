"""The worst of everything at once: the API and the jobs worker keep within the memory of their manifests.

A tenth of it by default; `FLOOD=1 pytest -s tests/faults/test_memory.py` is all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import CHUNK_TEXTS, SMALL_TEXTS, JobStore
from batcher.jobs.worker import LARGE_JOBS, SMALL_JOBS
from batcher.settings import JobSettings
from tests.faults.test_flood import FLOOD, JSON_HEAD, MIB, Peer, peers
from tests.limits import confine, limit_bytes
from tests.service import Service, wait_until

pytestmark = [
    pytest.mark.redis,
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are set by Linux alone"),
]

SHARE = max(FLOOD, 0.1)
# What each part of 10,000 connections does.
IDLE, SLOW, UNREAD, UNREAD_STREAMS, WAITING = (int(SHARE * n) for n in (4000, 1000, 2000, 1000, 2000))


@pytest.fixture
def confined(start_service: Callable[..., Service]) -> Service:
    """A service whose API may take as much memory as its manifest says; more is refused by the system."""
    made = start_service(workers=1, max_connections=10_000, body_timeout_s=30)
    jobs = made.start_jobs()
    wait_until(lambda: "ready" in jobs.said(), "the jobs worker")
    confine(made.api.pid, "api")
    return made


def most_mib(pid: int) -> float:
    """The most that a process has ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def upload(service: Service) -> int:
    """One job of long texts, as large as it may be. Its status: 503 also if the connection is reset."""
    text = json.dumps("x" * 19_000 + "\N{GRINNING FACE}", ensure_ascii=False).encode() + b"\n"

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(int(60 * MIB * SHARE) // len(text)):
            yield text

    async with httpx.AsyncClient(base_url=service.base_url, trust_env=False, timeout=300) as client:
        headers = {"content-type": "application/x-ndjson"}
        try:
            return (await client.post("/jobs", content=blocks(), headers=headers)).status_code
        except httpx.TransportError:
            return 503


async def fill_cache(service: Service) -> None:
    """More known texts than the in-process cache keeps."""
    async with httpx.AsyncClient(base_url=service.base_url, trust_env=False, timeout=60) as client:
        for start in range(0, int(60_000 * SHARE), 500):
            texts = [f"{number} " * 40 for number in range(start, start + 500)]
            answer = await client.post("/predict", json={"text": texts}, headers={"prefer": "wait=30"})
            assert answer.status_code == 200, answer.text


async def finished_job(service: Service) -> str:
    """Where many results can be read."""
    async with httpx.AsyncClient(base_url=service.base_url, trust_env=False, timeout=60) as client:
        body = b"".join(b'"text %d"\n' % number for number in range(20_000))
        answer = await client.post("/jobs", content=body, headers={"content-type": "application/x-ndjson"})
        path = answer.headers["location"]
        while (await client.get(path, params={"wait": 5})).json()["status"] != "finished":
            pass
        return f"{path}/predictions?limit=20000"


def post(body: bytes, *more: bytes) -> bytes:
    head = JSON_HEAD % (b"/predict", b"application/json")
    return head + b"".join(more) + b"content-length: %d\r\n\r\n" % len(body) + body


async def slowly(peer: Peer) -> None:
    with contextlib.suppress(ConnectionError):
        peer[1].write(b'{"text": ["' + b"x" * MIB)
        await peer[1].drain()


async def test_finding_11_the_worst_of_everything_fits_into_the_limit(confined: Service) -> None:
    """Idle connections, slow bodies, answers not read, requests that wait, uploads, and a full cache."""
    service = confined
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    began = most_mib(service.api.pid)
    await fill_cache(service)
    results = await finished_job(service)
    print(f"start {began:.0f} MiB, with a full cache {most_mib(service.api.pid):.0f} MiB")
    known = json.dumps({"text": ["known"] * 1024}).encode()
    waits = json.dumps({"text": ["y" * 19_000 + "\U0001f600"] * 12}, ensure_ascii=False).encode()
    half = JSON_HEAD % (b"/predict", b"application/json") + b"content-length: %d\r\n\r\n" % (2 * MIB)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(peers(service, IDLE))
        print(f"idle connections: {most_mib(service.api.pid):.0f} MiB")
        unread = await stack.enter_async_context(peers(service, UNREAD))
        streams = await stack.enter_async_context(peers(service, UNREAD_STREAMS))
        for peer in (*unread, *streams):
            peer[1].transport.pause_reading()  # type: ignore[attr-defined]
        for peer in unread:
            peer[1].write(post(known) * 30)
        for peer in streams:
            peer[1].write(b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % results.encode())
        await asyncio.sleep(3)
        print(f"answers not read: {most_mib(service.api.pid):.0f} MiB")
        service.workers[0].kill(signal.SIGSTOP)
        slow = await stack.enter_async_context(peers(service, SLOW, half))
        sending = [asyncio.create_task(slowly(peer)) for peer in slow]
        uploads = [asyncio.create_task(upload(service)) for _ in range(8)]
        await asyncio.sleep(2)
        print(f"slow bodies and uploads: {most_mib(service.api.pid):.0f} MiB")
        await stack.enter_async_context(peers(service, WAITING, post(waits, b"prefer: wait=60\r\n")))
        slowest_s = 0.0
        for _ in range(5):
            began_s = time.monotonic()
            for path in ("/metrics", "/livez"):
                assert (await asyncio.to_thread(service.http.get, path, timeout=120)).status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            await asyncio.sleep(0.5)
        print(f"requests that wait: {most_mib(service.api.pid):.0f} MiB; probes within {slowest_s:.1f} s")
        service.workers[0].kill(signal.SIGCONT)
        statuses = await asyncio.gather(*uploads)
        for task in sending:
            task.cancel()
    print(f"all of it: {most_mib(service.api.pid):.0f} MiB; uploads {statuses}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Traceback" not in service.api.said(), [
        line[-1500:] for line in service.api.said().splitlines() if "Traceback" in line
    ][:2]
    # 507: the uploads were fast enough to use up the bytes that jobs may keep
    assert set(statuses) <= {202, 503, 507}
    assert most_mib(service.api.pid) * MIB < limit_bytes("api")
    assert service.http.get("/livez").status_code == 200
    service.wait_ready()
    assert service.predict("as well as before").status_code == 200


@pytest.mark.long
def test_the_longest_texts_of_as_many_jobs_as_run_at_once_fit_into_the_limit(
    start_service: Callable[..., Service],
) -> None:
    """One wide character makes four bytes of each of the others: 20 jobs held up to 1.6 GiB."""
    made = start_service(workers=1)
    text = json.dumps("\N{GRINNING FACE} %s " + "x" * 6_500, ensure_ascii=False)
    ids = [f"{number:032x}" for number in range(SMALL_JOBS + LARGE_JOBS)]
    with made.redis.client() as client:
        store, queue = JobStore(client, "default", 600), JobQueue(client, JobSettings())
        for job_id in ids:
            upload = store.upload(job_id)
            for chunk in range(SMALL_TEXTS // CHUNK_TEXTS + (int(job_id, 16) >= SMALL_JOBS)):
                numbers = range(chunk * CHUNK_TEXTS, (chunk + 1) * CHUNK_TEXTS)
                upload.add([(text % f"{job_id} {number}").encode() for number in numbers])
            assert store.create(upload, "digest", 1000).outcome == "created"
            queue.enqueue(job_id)
        jobs = made.start_jobs()
        wait_until(lambda: "ready" in jobs.said(), "the jobs worker")
        confine(jobs.pid, "jobs")
        ended = {"finished", "failed", "cancelled"}
        wait_until(
            lambda: all(record is not None and record.status in ended for record in store.records(ids)),
            "the jobs to end",
            600,
        )
        records = store.records(ids)
    assert [record.status for record in records if record is not None] == ["finished"] * len(ids)
    print(f"jobs: {most_mib(jobs.pid):.0f} MiB")
    assert most_mib(jobs.pid) * MIB < limit_bytes("jobs")
