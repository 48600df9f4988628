"""A service under light traffic of every kind, and whether anything of it grows.

    python -m tests.soak [--minutes 60] [--limits] [--model default] [--svg FILE] [--json FILE]

Predictions known and unknown, jobs and batches, the dialects of other services, bad requests, clients that
leave, pages and metrics; a revision is published and taken back, and a worker is replaced, in each of 30
cycles. Every second, the memory, file descriptors and threads of each process, the asyncio tasks of
the API and what Redis holds are recorded. For each, `tests.soak.slopes` bounds its growth over the second
half. It ends with status 1 if the upper 95 % bound of any is 1 % an hour or more, or if an answer was not
as expected. `--limits` holds each process to the memory that its manifest in k8s/base gives it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from benchmarks.report import facts, table
from tests.limits import MIB, limit_bytes
from tests.signing import SIGNED
from tests.soak.picture import draw
from tests.soak.run import Plan, Soak, soak
from tests.soak.slopes import LIMIT, Slope, slope, statistic

ROLES = {
    "API": "api",
    "worker": "worker",
    "replaced worker, at its end": "worker",
    "jobs worker": "jobs",
    "Redis": "redis",
}


def main() -> int:
    """Runs the soak. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="default", help=f"default, {SIGNED}, or a directory")
    parser.add_argument("--rate", type=float, default=6, help="requests a second")
    parser.add_argument("--limits", action="store_true", help="hold processes to the manifests' memory")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    args = parser.parse_args()
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes too
    plan = Plan(args.minutes * 60, model=args.model, rate=args.rate, limited=args.limits)
    found = soak(plan, report)
    if args.json:
        args.json.write_text(json.dumps(facts() | {"minutes": args.minutes, "series": found.series}))
    slopes = {name: slope(samples, plan.seconds, statistic(name)) for name, samples in found.series.items()}
    if args.svg:
        args.svg.write_text(draw(found.series, slopes, plan.seconds))
    return _report(found, slopes, args.limits)


def _report(found: Soak, slopes: dict[str, Slope], limited: bool) -> int:
    columns = ["series", "of each part", "level", "most", "slope, % an hour", "upper 95 %", "verdict"]
    rows = []
    for name, one in slopes.items():
        numbers = [f"{one.level:.5g}", f"{one.most:.5g}", f"{one.percent:+.2f}", f"{one.upper:+.2f}"]
        rows.append([name, statistic(name), *numbers, one.verdict])
    table(columns, rows)
    shortest, longest = found.lengths
    print(f"cycles of {shortest:.0f} to {longest:.0f} s")
    print(", ".join(f"{count} x {kind}" for kind, count in sorted(found.seen.items())))
    for sentence in found.wrong[:40]:
        print(f"WRONG  {sentence}")
    if limited:
        for name, role in ROLES.items():
            limit = limit_bytes(role) / MIB
            print(f"{name}: at most {slopes[f'{name}: resident, MiB'].most:.0f} of {limit:.0f} MiB")
    growing = [name for name, one in slopes.items() if one.verdict != "flat"]
    print(
        f"{len(slopes) - len(growing)} of {len(slopes)} below {LIMIT:g} % an hour; {len(found.wrong)} wrong"
    )
    return 1 if growing or found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
