"""`python -m tests.chaos --minutes 3 --seed 1 2`: prints ledgers; status 1 if anything is wrong or lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.run import MAX_S, run_chaos
from tests.signing import SIGNED


def main() -> int:
    """Runs chaos once for each seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--model", default=SIGNED, help="what the workers run: a stub, default, a directory")
    parser.add_argument("--shards", type=int, default=1, help="several: of a cluster, whose slots move")
    parser.add_argument("--json", type=Path, help="append a line for each seed to this file")
    parser.add_argument("--quiet", action="store_true", help="print the ledger only")
    given = parser.parse_args()
    failed = [seed for seed in given.seed if not _run(given, seed)]
    return 1 if failed else 0


def _run(given: argparse.Namespace, seed: int) -> bool:
    console = Console()
    began = time.monotonic()

    def report(line: str) -> None:
        if not given.quiet or "\n" in line:
            console.print(
                f"[dim]{time.monotonic() - began:6.1f} s[/] {line}", highlight=False, markup="\n" not in line
            )

    ledger, found = asyncio.run(
        run_chaos(given.minutes * 60, seed, model=given.model, shards=given.shards, report=report)
    )
    found += ledger.history.faults(MAX_S)
    table = Table(
        title=f"seed {seed}, {given.minutes:g} min, {given.model}, {given.shards} shards", show_header=False
    )
    for name, value in ledger.report():
        table.add_row(name, value)
    table.add_row("invariants broken", str(len(found)))
    console.print(table)
    for line in [*found, *ledger.failures[:40]]:
        print(line, flush=True)
    good = not (ledger.failures or found)
    if given.json:
        record = {
            "seed": seed,
            "model": given.model,
            "minutes": given.minutes,
            "shards": given.shards,
            "good": good,
            **dict(ledger.report()),
        }
        with given.json.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return good


if __name__ == "__main__":
    sys.exit(main())
