"""A worker with less than whole cores: texts/s and delays by the quota of its cgroup and its threads.

    python -m benchmarks.quota [--model default] [--quotas 0.5 1 1.5 2] [--seconds 10] [--users 4] [--texts 3]

Each quota runs with the threads that the worker chooses and with one for each core of the machine. All texts
are unknown. Needs the right to make cgroups.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import service
from benchmarks.texts import stream
from model_store.hardware import affinity

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
NAME = f"millrace-{os.getpid()}"


@contextmanager
def cgroup(cores: float) -> Iterator[Path]:
    """A cgroup with this quota, whose processes have ended at the end: the file that takes in a process."""
    version_2 = (CGROUPS / "cgroup.controllers").exists()
    folder = CGROUPS / ("" if version_2 else "cpu") / NAME
    folder.mkdir()
    try:
        quota_us = round(cores * PERIOD_US)
        if version_2:
            (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield folder / ("cgroup.procs" if version_2 else "tasks")
    finally:
        folder.rmdir()


def throttled_share(folder: Path) -> float:
    """The share of the periods of a cgroup in which its processes had to wait for the next one."""
    counted = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    return int(counted["nr_throttled"]) / max(1, int(counted["nr_periods"]))


def measure(model: str, cores: float, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """One service whose worker has this quota; `threads` 0 lets it choose."""
    texts = stream(7)
    with cgroup(cores) as tasks:
        join = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(tasks))
        with service(model, worker_in=join, threads=threads, local_cache_entries=0) as running:
            asyncio.run(closed_loop(running.port, 1, 1.0, lambda: [next(texts)]))
            report.progress(f"{cores:g} cores, {threads or 'its own'} threads")

            def request() -> list[str]:
                return list(itertools.islice(texts, args.texts))

            tally = asyncio.run(closed_loop(running.port, args.users, args.seconds, request))
            throttled = throttled_share(tasks.parent)
    return {
        "cores": cores,
        "threads": threads,
        "texts_per_s": tally.texts_per_s,
        "p50_ms": tally.quantile_ms(0.5),
        "p99_ms": tally.quantile_ms(0.99),
        "throttled": throttled,
    }


def main() -> None:
    """Measures, prints the table and writes bench-results/quota.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--model", default="default")
    parser.add_argument("--quotas", type=float, nargs="+", default=[0.5, 1, 1.5, 2])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--texts", type=int, default=3, help="texts of each request")
    args = parser.parse_args()
    results = [
        measure(args.model, cores, threads, args) for cores in args.quotas for threads in (0, affinity())
    ]
    rows = [
        [
            f"{one['cores']:g}",
            str(one["threads"] or "its own"),
            *(f"{one[name]:.0f}" for name in ("texts_per_s", "p50_ms", "p99_ms")),
            f"{one['throttled']:.0%}",
        ]
        for one in results
    ]
    report.table(["quota", "threads", "texts/s", "p50 ms", "p99 ms", "periods throttled"], rows)
    report.finish("quota", {"settings": vars(args), "goals": [], "results": results})


if __name__ == "__main__":
    main()
