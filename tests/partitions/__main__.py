"""Cuts links between clients, Redis servers and sentinels, each direction by itself, under constant traffic.

    python -m tests.partitions [--topology sentinel|cluster] [--cuts 200] [--seed 1] [--planted late|mixed]

Needs Linux, root (for network namespaces), iproute2 and redis-server. Prints a line for each cut, and at
the end what was promised and whether it was kept; status 1 if anything was not. See docs/partitions.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
import time
from pathlib import Path

from benchmarks.report import facts, table
from tests.partitions.network import unavailable
from tests.partitions.planted import FAULTS
from tests.partitions.promises import promises, waited_through
from tests.partitions.run import TOPOLOGIES, Made, Plan, run
from tests.servers import server_binary


def main() -> int:
    """Runs the cuts. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.partitions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="sentinel")
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", choices=FAULTS, default="", help="break the product on purpose")
    parser.add_argument("--redis", default="", help="further words of redis-server, as one argument")
    parser.add_argument("--json", type=Path, help="append a line to this file")
    args = parser.parse_args()
    binary = server_binary()
    if why := unavailable() or ("" if binary else "no redis-server"):
        raise SystemExit(f"Cannot run: {why}.")
    assert binary is not None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes too
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    plan = Plan(args.topology, args.cuts, args.seed, args.planted, tuple(shlex.split(args.redis)))
    made = asyncio.run(run(plan, binary, report))
    kept = _report(made)
    if args.json:
        line = facts() | {"topology": args.topology, "seed": args.seed, "kept": kept, **dict(_figures(made))}
        with args.json.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if kept else 1


def _report(made: Made) -> bool:
    """Prints everything. Whether all promises were kept."""
    table(["kind of cut", "times"], sorted(made.kinds.items()))
    print()
    table(["figure", ""], _figures(made))
    print()
    found = promises(made)
    table(
        ["promise", "kept", "measured"],
        [[one.name, f"broken {len(one.broken)} x" if one.broken else "yes", one.measured] for one in found],
    )
    for one in found:
        for sentence in one.broken[:20]:
            print(f"BROKEN  {one.name}: {sentence}")
    return not any(one.broken for one in found)


def _figures(made: Made) -> list[tuple[str, str]]:
    asked = made.record.asked
    under_way, answered = waited_through(made)
    split_s = sum(end - begin for begin, end, _ in made.twice)
    return [
        ("cuts", str(len(made.cuts))),
        ("seconds cut", f"{sum(healed - began for began, healed, _ in made.cuts):.0f}"),
        ("replicas promoted", str(len(made.promoted))),
        ("two masters of the same data at once", f"{len(made.twice)} times, {split_s:.0f} s"),
        ("both stored results for their clients", f"{made.served_twice} times"),
        ("requests", str(len(asked))),
        ("answered", str(sum(one.status == 200 for one in asked))),
        ("refused", ", ".join(f"{n} x {code}" for code, n in sorted(made.record.refused.items())) or "0"),
        ("new texts under way at a promotion", f"{under_way}, of which {answered} were answered"),
        ("jobs", f"{len(made.jobs)} accepted, {made.jobs_refused} refused"),
        ("jobs lost", str(sum(job.fate == "lost" for job in made.jobs))),
        ("jobs whose status stepped back", str(sum(job.stepped_back > 0 for job in made.jobs))),
    ]


if __name__ == "__main__":
    sys.exit(main())
