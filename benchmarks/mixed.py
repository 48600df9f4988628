"""The acceptance load: 95 % of requests are three known texts, the rest permutations of ten.

python -m benchmarks.mixed [--model default] [--seconds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import random
from typing import Any

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import service

KNOWN = ("I love you!", "I hate you!", "I am a Kubernetes Cluster!")
ALL = (
    *KNOWN,
    "I ran to the store",
    "The students are very good in this class",
    "Working on Saturday morning is brutal",
    "How much wood could a wood chuck chuck if a wood chuck could chuck wood?",
    "A Wood chuck would chuck as much wood as a wood chuck could chuck if a woodchuck could chuck wood ",
    "Food is very tasty",
    "Welcome to the thunderdome",
)
GOAL_P99_MS = 30.0
ACCEPTANCE = "acceptance load"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument(
        "--known", type=float, default=0.95, help="share of requests that are the known three"
    )
    args = parser.parse_args()
    rng = random.Random(5)
    fresh = iter(range(10**9))

    def acceptance() -> list[str]:
        return list(KNOWN) if rng.random() < args.known else rng.sample(ALL, len(ALL))

    def harder() -> list[str]:
        return list(KNOWN) if rng.random() < args.known else [f"{text} {next(fresh)}" for text in ALL]

    rows, results = [], list[dict[str, Any]]()
    with service(args.model) as running:
        for name, texts in ((ACCEPTANCE, acceptance), ("new texts in the rest", harder)):
            for users in (10, 50):
                report.progress(f"{name}, {users} users, {args.seconds:g} s")
                tally = asyncio.run(closed_loop(running.port, users, args.seconds, texts))
                rate = len(tally.latencies_s) / tally.seconds
                p50, p99 = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
                rows.append([f"{name}, {users} users", f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}"])
                results.append(
                    {
                        "load": name,
                        "users": users,
                        "requests_per_s": rate,
                        "p50_ms": p50,
                        "p99_ms": p99,
                        "statuses": tally.statuses,
                    }
                )
    report.table(["", "requests/s", "p50 ms", "p99 ms"], rows)
    goals = [
        report.goal(f"p99 ms of 10 users, {r['load']}", r["p99_ms"], GOAL_P99_MS, at_most=True)
        for r in results
        if r["users"] == 10 and r["load"] == ACCEPTANCE
    ]
    report.finish("mixed", {"model": args.model, "loads": results, "goals": goals})


if __name__ == "__main__":
    main()
