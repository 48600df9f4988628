"""A job of long texts read in windows: the memory of each process, and what short texts wait beside it.

    python -m benchmarks.long_texts [--texts 2000] [--words 3000] [--windows 126:31:mean] [--model default]

One client asks for single new short texts, one after the other: alone, then beside the job, for so many
`--seconds`. Then the job is awaited, or with `--cancel` cancelled. The stub costs `--batch-ms` per batch and
`--token-ms` a token.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import httpx

from benchmarks import report
from benchmarks.jobs import GOAL_P99, ask_singly, finish, hand_in, job_rate, jobs_worker
from benchmarks.memory import Memory
from benchmarks.service import service
from benchmarks.texts import long_texts, stream

# How much the resident set of each process may grow while the job is handed in and runs.
GOAL_GROWTH_MIB = 150.0
MAX_CHARACTERS = 100_000


def measure(port: int, client: httpx.Client, memory: Memory, args: argparse.Namespace) -> dict[str, Any]:
    """Latencies alone and beside the job, and how far it came."""
    source = stream(17)
    report.progress(f"short texts alone, {args.seconds:g} s")
    alone = asyncio.run(ask_singly(port, source, args.seconds))
    texts = long_texts(args.texts, args.words, seed=18)
    megabytes = sum(map(len, texts)) / 1e6
    report.progress(f"a job of {args.texts} texts of {args.words} words, {megabytes:.0f} MB")
    with memory:
        path = hand_in(client, texts)
        while client.get(path, params={"wait": 1}).json()["status"] == "queued":
            pass
        report.progress(f"short texts beside the job, {args.seconds:g} s")
        beside = asyncio.run(ask_singly(port, source, args.seconds))
        job = client.get(path).json()
        assert job["status"] == "running", "the job ended too early: raise --texts"
        rate = job["rate"] or 0.0  # not known while no chunk is done
        if args.cancel:
            client.delete(path).raise_for_status()
        else:
            report.progress("the rest of the job")
            job = finish(client, path)
            rate = job_rate(job)
    return {"alone_ms": alone, "beside_ms": beside, "megabytes": megabytes, "done": job["done"], "rate": rate}


def show(result: dict[str, Any], memory: Memory) -> list[dict[str, Any]]:
    """Prints latencies and memory. Returns the goals."""
    shares = (0.5, 0.9, 0.99)
    rows = [
        [name, len(values), *(f"{report.quantile(values, share):.2f}" for share in shares)]
        for name, values in (("alone", result["alone_ms"]), ("beside", result["beside_ms"]))
    ]
    report.table(["single short texts", "requests", "p50 ms", "p90 ms", "p99 ms"], rows)
    grown = {name: memory.peak[name] - memory.before.get(name, 0.0) for name in memory.peak}
    columns = ["process", "MiB before", "MiB at most"]
    sizes = [[name, f"{memory.before.get(name, 0):.0f}", f"{memory.peak[name]:.0f}"] for name in grown]
    report.table(columns, sizes)
    print(f"{result['done']} texts done, {result['rate']:.2f} texts/s")
    ratio = report.quantile(result["beside_ms"], 0.99) / report.quantile(result["alone_ms"], 0.99)
    return [
        report.goal("p99 of short texts beside the job / alone", ratio, GOAL_P99, at_most=True),
        report.goal("largest growth of a process, MiB", max(grown.values()), GOAL_GROWTH_MIB, at_most=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, default=3000)
    parser.add_argument("--windows", default="126:31:mean")
    parser.add_argument("--model", default="default")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--cancel", action="store_true")
    parser.add_argument("--batch-ms", type=float, default=0.0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    args = parser.parse_args()
    settings = {
        "text_windows": args.windows,
        "max_text_chars": MAX_CHARACTERS,
        "stub_batch_ms": args.batch_ms,
        "stub_token_ms": args.token_ms,
    }
    with service(args.model, **settings) as running, jobs_worker(running) as jobs:
        url = f"http://127.0.0.1:{running.port}"
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
            memory = Memory(running.pids, jobs)
            result = measure(running.port, client, memory, args)
    goals = show(result, memory)
    report.finish("long_texts", vars(args) | result | {"memory_mib": memory.peak, "goals": goals})


if __name__ == "__main__":
    main()
