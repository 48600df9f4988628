"""The queue alone: a stub that costs nothing behind API, Redis and worker. Texts/s, and Redis time a text.

python -m benchmarks.queue_alone [--seconds 8] [--users 16] [--texts 32] [--separate-cache]

`--separate-cache` also measures the service with a second Redis for the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import cpu_s, redis_in_memory, service
from benchmarks.texts import stream

# Commands of clients to the queue's Redis (those that scripts call do not count again) and to a cache's.
SENT = (("evalsha", "mget", "blpop"), ("mget", "set"))
COLUMNS = ["", "texts/s", "p50 ms", "p99 ms", "script us/text"] + [
    f"{process} us/text" for process in ("redis cpu", "cache cpu", "api", "worker")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--texts", type=int, default=32, help="texts of each request")
    parser.add_argument(
        "--separate-cache", action="store_true", help="also with a second Redis for the cache"
    )
    args = parser.parse_args()
    if args.texts < 1 or args.users < 1 or args.seconds <= 0:
        parser.error("--seconds, --users and --texts must be positive")
    source = stream(7)
    ready = [[next(source) for _ in range(args.texts)] for _ in range(256_000 // args.texts)]
    results = [measure("queue", ready, args.users, args.seconds, separate_cache=False)]
    if args.separate_cache:
        results.append(measure("with a separate cache", ready, args.users, args.seconds, separate_cache=True))
    report.table(COLUMNS, [row(result) for result in results])
    queue = results[0]
    goals = [
        report.goal("texts/s through the queue", queue["texts_per_s"], 5000),
        report.goal("us of Redis commands a text", queue["redis_command_us_per_text"], 40, at_most=True),
    ]
    report.finish("queue", queue | {"others": results[1:], "goals": goals})


def measure(
    name: str, ready: Sequence[list[str]], users: int, seconds: float, *, separate_cache: bool
) -> dict[str, Any]:
    """One service under full load. Durations are in microseconds a text, of each process."""
    with ExitStack() as stack:
        settings: dict[str, Any] = {"local_cache_entries": 0}
        pids = {}
        if separate_cache:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            settings["cache_url"], pids["cache"] = stack.enter_context(redis_in_memory(folder))
        running = stack.enter_context(service("stub", **settings))
        pids |= running.pids
        servers = [stack.enter_context(running.redis())]
        if separate_cache:
            servers.append(stack.enter_context(redis.Redis.from_url(settings["cache_url"], protocol=2)))
        report.progress(f"{name}: warming up")
        texts = itertools.cycle(ready)
        asyncio.run(closed_loop(running.port, 4, 1, lambda: next(texts)))
        for server in servers:
            server.config_resetstat()
        before = {process: cpu_s(pid) for process, pid in pids.items()}
        report.progress(f"{name}: {users} users, {len(ready[0])} unique texts a request, {seconds:g} s")
        tally = asyncio.run(closed_loop(running.port, users, seconds, lambda: next(texts)))
        used = {process: cpu_s(pid) - before[process] for process, pid in pids.items()}
        commands = [server.info("commandstats") for server in servers]
    sent = [
        stats.get(f"cmdstat_{command}", {"usec": 0})["usec"]
        for stats, names in zip(commands, SENT, strict=False)
        for command in names
    ]
    return {
        "name": name,
        "texts_per_s": tally.texts_per_s,
        "p50_ms": tally.quantile_ms(0.5),
        "p99_ms": tally.quantile_ms(0.99),
        "redis_command_us_per_text": sum(sent) / tally.texts,
        "cpu_us_per_text": {process: seconds / tally.texts * 1e6 for process, seconds in used.items()},
        "script_calls_per_text": commands[0]["cmdstat_evalsha"]["calls"] / tally.texts,
        "statuses": tally.statuses,
    }


def row(result: dict[str, Any]) -> list[str]:
    cpu = result["cpu_us_per_text"]
    return [
        result["name"],
        f"{result['texts_per_s']:.0f}",
        f"{result['p50_ms']:.1f}",
        f"{result['p99_ms']:.1f}",
        f"{result['redis_command_us_per_text']:.1f}",
        *(
            f"{cpu[process]:.1f}" if process in cpu else "-"
            for process in ("redis", "cache", "api", "worker0")
        ),
    ]


if __name__ == "__main__":
    main()
