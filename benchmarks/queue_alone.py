"""The queue alone: a stub that costs nothing behind API, Redis and worker. Texts/s, and Redis time a text.

python -m benchmarks.queue_alone [--seconds 8] [--users 16] [--texts 32]
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import service
from benchmarks.texts import stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--texts", type=int, default=32, help="texts of each request")
    args = parser.parse_args()
    source = stream(7)
    ready = [[next(source) for _ in range(args.texts)] for _ in range(256_000 // args.texts)]
    with service("stub", local_cache_entries=0) as mill, mill.redis() as client:
        report.progress("warming up")
        texts = iter(ready)
        asyncio.run(closed_loop(mill.port, 4, 1, lambda: next(texts)))
        client.config_resetstat()
        before = {name: mill.cpu_s(name) for name in mill.pids}
        report.progress(f"{args.users} users, {args.texts} unique texts a request, {args.seconds:g} s")
        tally = asyncio.run(closed_loop(mill.port, args.users, args.seconds, lambda: next(texts)))
        cpu_s = {name: mill.cpu_s(name) - before[name] for name in mill.pids}
        commands = client.info("commandstats")
    # A script's time holds its commands': only what clients send counts.
    sent = {
        name[8:]: stats
        for name, stats in commands.items()
        if name[8:] in {"evalsha", "mget", "set", "xread", "blpop", "lpop"}
    }
    scripted = sent.get("evalsha", {"usec": 0})["usec"]
    plain = sum(
        commands[f"cmdstat_{name}"]["usec"] for name in ("mget", "blpop") if f"cmdstat_{name}" in commands
    )
    redis_us = (scripted + plain) / tally.texts
    report.table(
        [
            "",
            "texts/s",
            "p50 ms",
            "p99 ms",
            "script us/text",
            "redis cpu us/text",
            "api us/text",
            "worker us/text",
        ],
        [
            [
                "queue",
                f"{tally.texts_per_s:.0f}",
                f"{tally.quantile_ms(0.5):.1f}",
                f"{tally.quantile_ms(0.99):.1f}",
                f"{redis_us:.1f}",
                *(f"{cpu_s[name] / tally.texts * 1e6:.1f}" for name in ("redis", "api", "worker0")),
            ]
        ],
    )
    goals = [
        report.goal("texts/s through the queue", tally.texts_per_s, 5000),
        report.goal("us of Redis commands a text", redis_us, 40, at_most=True),
    ]
    evals = sent["evalsha"]["calls"]
    report.finish(
        "queue",
        {
            "texts_per_s": tally.texts_per_s,
            "p50_ms": tally.quantile_ms(0.5),
            "p99_ms": tally.quantile_ms(0.99),
            "redis_command_us_per_text": redis_us,
            "cpu_us_per_text": {name: used / tally.texts * 1e6 for name, used in cpu_s.items()},
            "script_calls_per_text": evals / tally.texts,
            "statuses": tally.statuses,
            "goals": goals,
        },
    )


if __name__ == "__main__":
    main()
