"""Jobs: how fast the bulk lane moves through one, what that costs the API, and what it costs single requests.

    python -m benchmarks.jobs [--texts 100000] [--rounds 1] [--model stub] [--seconds 20]

`direct` feeds the bulk lane from one process through the reply hub, with as many texts in flight as a job
has: the most that a job could reach. Both take turns, with new texts each time. Then one client asks for
single new texts, one after the other, `--pause` seconds apart, first alone, then beside a job that is larger
than the time allows, whose rate is also measured without the client.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from batcher.hub.hub import ReplyHub
from batcher.jobs.runner import BUDGET_S, REQUEST_TEXTS
from batcher.messages import entry_id
from batcher.settings import JobSettings
from benchmarks import report
from benchmarks.memory import Memory
from benchmarks.net import Connection, predict_body
from benchmarks.service import Service, process, service
from benchmarks.texts import stream

GOAL_RATE = 0.8
GOAL_MEMORY_MIB = 50.0
GOAL_P99 = 2.0
GOAL_BULK = 0.9
PAUSE_S = 0.02


@contextmanager
def jobs_worker(running: Service, code: Path | None = None) -> Iterator[int]:
    env = {"REDIS_URL": running.redis_url, "MILLRACE_LOG_LEVEL": "warning"}
    env |= {"PYTHONPATH": str(code)} if code else {}
    with process([sys.executable, "-m", "millrace", "jobs"], env, cwd=code) as pid:
        yield pid


async def feed(url: str, texts: list[str]) -> float:
    """Texts per second through the bulk lane, from this process."""
    settings = JobSettings(redis_url=url)  # type: ignore[arg-type]
    hub = ReplyHub.connect(settings)
    await hub.start()
    left = iter(range(0, len(texts), REQUEST_TEXTS))

    async def asker() -> None:
        for at in left:
            part = texts[at : at + REQUEST_TEXTS]
            await hub.classify([entry_id(text) for text in part], part, budget_s=BUDGET_S, lane="bulk")

    began = time.perf_counter()
    await asyncio.gather(*(asker() for _ in range(settings.job_in_flight // REQUEST_TEXTS)))
    rate = len(texts) / (time.perf_counter() - began)
    await hub.stop()
    return rate


def hand_in(client: httpx.Client, texts: list[str]) -> str:
    body = "".join(json.dumps(text) + "\n" for text in texts)
    answer = client.post("/jobs", content=body, headers={"content-type": "application/x-ndjson"})
    return answer.raise_for_status().headers["location"]


def finish(client: httpx.Client, path: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = client.get(path, params={"wait": 10}).json()
        if job["status"] not in ("queued", "running"):
            assert (job["status"], job["done"]) == ("finished", job["total"]), job
            return job


def job_rate(job: dict[str, Any]) -> float:
    """From the start of the run to its end, as the job says."""
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    return float(job["total"] / (ended - began).total_seconds())


def rate_during(client: httpx.Client, path: str, seconds: float) -> float:
    """Texts per second of a running job, from two looks at it."""
    began, done = time.perf_counter(), client.get(path).json()["done"]
    time.sleep(seconds)
    return float((client.get(path).json()["done"] - done) / (time.perf_counter() - began))


async def ask_singly(
    port: int, source: Iterator[str], seconds: float, pause_s: float = PAUSE_S
) -> list[float]:
    """Latencies in ms of single new texts, one after the other."""
    connection, latencies = Connection(port), []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        status, _, _ = await connection.post("/predict", predict_body([next(source)]))
        assert status == 200, status
        latencies.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(pause_s)
    connection.close()
    return latencies


def throughput(running: Service, client: httpx.Client, jobs: int, args: argparse.Namespace) -> dict[str, Any]:
    source = stream(11)
    direct, through = [], []
    with Memory(running.pids, jobs) as memory:
        for _ in range(args.rounds):
            report.progress(f"{args.texts} texts, direct")
            direct.append(asyncio.run(feed(running.redis_url, list(islice(source, args.texts)))))
            report.progress(f"{args.texts} texts, one job")
            path = hand_in(client, list(islice(source, args.texts)))
            through.append(job_rate(finish(client, path)))
            client.delete(path)
    report.table(
        ["", "texts/s"],
        [["direct", f"{median(direct):.0f}"], ["one job", f"{median(through):.0f}"]],
    )
    report.table(
        ["process", "MiB before", "MiB at most"],
        [[name, f"{memory.before.get(name, 0):.0f}", f"{size:.0f}"] for name, size in memory.peak.items()],
    )
    return {
        "direct_texts_per_s": direct,
        "job_texts_per_s": through,
        "memory_mib": memory.peak,
        "goals": [
            report.goal("job / direct", median(through) / median(direct), GOAL_RATE),
            report.goal("API memory growth, MiB", memory.growth("api"), GOAL_MEMORY_MIB, at_most=True),
        ],
    }


def command_line(running: Service, jobs: int, args: argparse.Namespace) -> dict[str, Any]:
    """A table through `millrace classify`: seconds from file to file, and the memory of each process."""
    report.progress(f"{args.texts} rows of CSV through millrace classify")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in.csv"), Path(folder, "out.csv")
        with source.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "text"])
            rows.writerows(enumerate(islice(stream(13), args.texts)))
        words = [sys.executable, "-m", "millrace", "classify", "--url", f"http://127.0.0.1:{running.port}"]
        began = time.perf_counter()
        classify = subprocess.Popen([*words, str(source), "-o", str(out)])
        with Memory(running.pids | {"classify": classify.pid}, jobs) as memory:
            assert classify.wait() == 0
        seconds = time.perf_counter() - began
        with out.open(newline="") as file:
            assert [row[0] for row in csv.reader(file)] == ["id", *map(str, range(args.texts))]
    report.table(["process", "MiB at most"], [[name, f"{size:.0f}"] for name, size in memory.peak.items()])
    print(f"{args.texts / seconds:.0f} rows/s from file to file")
    goal = report.goal("API memory growth, MiB", memory.growth("api"), GOAL_MEMORY_MIB, at_most=True)
    return {"seconds": seconds, "memory_mib": memory.peak, "goals": [goal]}


def interference(running: Service, client: httpx.Client, args: argparse.Namespace) -> dict[str, Any]:
    source = stream(12)

    def single() -> list[float]:
        return asyncio.run(ask_singly(running.port, source, args.seconds, args.pause))

    path = hand_in(client, list(islice(source, int(3 * args.beside * args.seconds))))
    while client.get(path, params={"wait": 1}).json()["done"] == 0:
        pass
    report.progress(f"a job alone, {args.seconds:g} s")
    undisturbed = rate_during(client, path, args.seconds)
    report.progress(f"single requests beside the job, {args.seconds:g} s")
    with ThreadPoolExecutor() as threads:
        rate = threads.submit(rate_during, client, path, args.seconds)
        beside = single()
    disturbed = rate.result()
    job = client.delete(path)
    assert job.status_code == 200, "the job ended too early: raise --beside"
    report.progress(f"single requests alone, {args.seconds:g} s")
    alone = single()
    rows = [
        [name, len(values), *(f"{report.quantile(values, share):.2f}" for share in (0.5, 0.9, 0.99))]
        for name, values in (("alone", alone), ("beside a job", beside))
    ]
    report.table(["single new texts", "requests", "p50 ms", "p90 ms", "p99 ms"], rows)
    report.table(
        ["the job", "texts/s"], [["alone", f"{undisturbed:.0f}"], ["beside requests", f"{disturbed:.0f}"]]
    )
    ratio = report.quantile(beside, 0.99) / report.quantile(alone, 0.99)
    return {
        "alone_ms": alone,
        "beside_ms": beside,
        "job_texts_per_s": {"alone": undisturbed, "beside": disturbed},
        "goals": [
            report.goal("p99 beside a job / alone", ratio, GOAL_P99, at_most=True),
            report.goal("the job beside requests / alone", disturbed / undisturbed, GOAL_BULK),
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="stub")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--beside", type=float, default=15_000, help="the most texts of the job beside in a second"
    )
    parser.add_argument("--pause", type=float, default=1.0, help="seconds from an answer to the next request")
    parser.add_argument("--code", type=Path, help="the folder of another checkout, whose code runs instead")
    parser.add_argument("--batch-ms", type=float, default=0.0, help="what the stub takes for a batch")
    parser.add_argument("--token-ms", type=float, default=0.0, help="and for each token of it")
    parser.add_argument("--only", choices=("throughput", "classify", "interference"))
    args = parser.parse_args()
    cost = {"stub_batch_ms": args.batch_ms, "stub_token_ms": args.token_ms}
    result: dict[str, Any] = {"model": args.model, "texts": args.texts, **cost}
    with service(args.model, code=args.code, **cost) as running, jobs_worker(running, args.code) as jobs:
        client = httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=120, trust_env=False)
        with client:
            if args.only in (None, "throughput"):
                result["throughput"] = throughput(running, client, jobs, args)
            if args.only in (None, "classify"):
                result["classify"] = command_line(running, jobs, args)
            if args.only in (None, "interference"):
                result["interference"] = interference(running, client, args)
    report.finish("jobs", result)


if __name__ == "__main__":
    main()
