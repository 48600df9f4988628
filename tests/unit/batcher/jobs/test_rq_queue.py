"""What RQ shows of jobs and of the process that runs them."""

from __future__ import annotations

import asyncio
import json
import time
import zlib

import pytest
from rq.job import JobStatus
from rq.worker import Worker

from batcher import jobs
from batcher.jobs.rq_queue import FUNCTION, WORKER_TTL_S, JobQueue, RqWorker
from tests.unit.batcher.jobs.jobs_bench import Bench, until


async def test_rq_shows_what_waits_and_runs_and_how_it_ended(bench: Bench) -> None:
    bench.hub().gate = asyncio.Event()
    job_id = bench.job("a" * 32)
    waits = bench.rq_job(job_id)
    assert (waits.get_status(), waits.data) == (
        JobStatus.QUEUED,
        f'["{FUNCTION}", null, ["{job_id}"], {{}}]'.encode(),
    )
    async with bench.working():
        await until(lambda: bench.rq_job(job_id).get_status() == JobStatus.STARTED)
        rq = bench.queue.rq
        assert (rq.get_job_ids(), rq.started_job_registry.get_job_ids(cleanup=False)) == ([], [job_id])
        assert Worker.all_keys(queue=rq) == ["rq:worker:w1"]
        assert bench.client.hget("rq:worker:w1", "state") == b"busy"
        assert [run.worker_name for run in bench.rq_job(job_id).get_executions()] == ["w1"]
        bench.hub().gate.set()
        await until(lambda: bench.rq_job(job_id).get_status() == JobStatus.FINISHED)
        assert rq.started_job_registry.get_job_ids(cleanup=False) == []
        assert rq.finished_job_registry.get_job_ids(cleanup=False) == [job_id]
        assert 0 < bench.client.ttl(f"rq:job:{job_id}") <= 600
        await until(lambda: bench.client.hget("rq:worker:w1", "state") == b"idle")
    assert Worker.all_keys(queue=rq) == []
    for key in bench.client.scan_iter():
        values = bench.client.hgetall(key).values() if bench.client.type(key) == b"hash" else []
        assert not any(value.startswith(b"\x80") for value in values), f"{key!r} looks pickled"


async def test_a_job_that_rq_does_not_know_is_run_all_the_same(bench: Bench) -> None:
    job_id = bench.job("a" * 32)
    bench.queue.forget(job_id)
    async with bench.working():
        await bench.ended(job_id)


async def test_what_is_not_a_job_of_this_service_is_removed_from_the_queue_and_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    key, refused = bench.queue.rq.key, JobQueue.refused
    for name, function in (("b" * 32, "os.system"), ("short", FUNCTION)):
        call = zlib.compress(json.dumps([function, None, [name], {}]).encode())
        bench.client.hset(f"rq:job:{name}", mapping={"data": call, "status": "queued"})
        bench.client.rpush(key, name, name)
    bench.client.rpush(key, b"\xff\xfe")
    bench.job("c" * 32)
    bench.store.cancel("c" * 32)  # its item is not a foreign one
    bench.client.rpush(key, "d" * 32)  # nor is that of a job that is gone
    job_id = bench.job("a" * 32)
    async with bench.working():
        await bench.ended(job_id)
        await until(lambda: bench.client.llen(key) == 0)
    assert JobQueue.refused == refused + 3
    assert not bench.client.exists(f"rq:job:{'c' * 32}")
    logged = [record for record in caplog.records if record.__dict__.get("action") == "job.refused"]
    assert sorted(record.__dict__["job"] for record in logged) == ["b" * 32, "short", "\ufffd\ufffd"]


def test_the_last_of_what_is_not_a_job_of_this_service_is_removed_too(bench: Bench) -> None:
    bench.client.rpush(bench.queue.rq.key, "one", "another")
    bench.queue.remove_foreign([])
    assert bench.client.llen(bench.queue.rq.key) == 0


def test_a_job_is_once_in_the_queue_of_rq_however_often_it_was_added(bench: Bench) -> None:
    """As by a client that has sent the same command again after a lost reply."""
    job_id, key = bench.job("a" * 32), bench.queue.rq.key
    process = RqWorker(bench.queue, "w1")
    for removes, left in (
        (bench.queue.enqueue, [job_id]),
        (bench.queue.forget, []),
        (lambda one: process.began([one]), []),
    ):
        bench.client.rpush(key, job_id, job_id)
        removes(job_id)
        assert bench.queue.rq.get_job_ids() == left


def test_a_heartbeat_keeps_what_runs_and_removes_what_is_over(bench: Bench) -> None:
    rq, process = bench.queue.rq, RqWorker(bench.queue, "w1")
    runs = rq.started_job_registry
    process.began([bench.job("a" * 32)])
    (execution,) = bench.client.zrange(runs.key, 0, -1)
    bench.client.zadd(runs.key, {execution: 1})
    keys = [one.key for one in (runs, rq.finished_job_registry, rq.failed_job_registry)]
    keys.append(rq.canceled_job_registry.key)
    now_s = time.time()
    for key in keys:
        bench.client.zadd(key, {"never": 0, "over": now_s - 1, "kept": now_s + 600})
    bench.client.rpush(rq.intermediate_queue_key, "a" * 32)
    process.heartbeat()
    assert [bench.client.zrange(key, 0, -1) for key in keys] == [[execution, b"kept"], *[[b"kept"]] * 3]
    assert -1 < (bench.client.zscore(runs.key, execution) or 0) - WORKER_TTL_S - now_s < 30
    assert not bench.client.exists(rq.intermediate_queue_key)


def test_a_worker_of_rq_runs_no_jobs() -> None:
    with pytest.raises(RuntimeError, match="millrace jobs"):
        jobs.run("a" * 32)


def test_a_forgotten_job_leaves_nothing_in_rq(bench: Bench) -> None:
    job_id = bench.job("a" * 32)
    for _ in range(2):
        bench.queue.forget(job_id)
    assert bench.queue.rq.get_job_ids() == []
    assert not bench.client.exists(f"rq:job:{job_id}")
