"""What processes cost while there is nothing to do: each kind alone with a Redis, then a fleet of them.

    python -m benchmarks.standby [--seconds 60] [--model stub] [--workers 100] [--hubs 10]

Figures of one kind are those of an hour, computed from the seconds that were measured. The fleet consists of
the workers and hubs of benchmarks.fleet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import redis

from benchmarks import report
from benchmarks.fleet import PER_PROCESS, Usage, host, run_hubs, run_workers
from benchmarks.service import cpu_s, process, redis_in_memory, until
from millrace.settings_loader import free_port

KINDS = ("api", "worker", "jobs")
SETTLE_S = 6.0
HOUR_S = 3600.0
GOAL_SHARE = 2.0
COLUMNS = ("an hour of one idle", "processor s", "Redis processor s", "commands", "MiB to and from Redis")


@dataclass(frozen=True, slots=True)
class Standby:
    """What one idle process uses in an hour: seconds of a core, of Redis' core, commands, bytes."""

    kind: str
    cpu_s: float
    redis_cpu_s: float
    commands: float
    bytes: float

    def cells(self) -> list[str]:
        """The row of the table."""
        figures = (self.cpu_s, self.redis_cpu_s, self.commands, self.bytes / 2**20)
        return [self.kind, *(f"{figure:,.1f}" for figure in figures)]


def commands(client: redis.Redis) -> int:
    """How many commands Redis has run, those inside scripts included."""
    return int(client.info("stats")["total_commands_processed"])


def measure(kind: str, model: str, seconds: float) -> Standby:
    """One process alone with a separate Redis. Raises SystemExit if it does not reach Redis."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url, redis_pid = stack.enter_context(redis_in_memory(folder))
        env = {"REDIS_URL": url, "MILLRACE_PORT": str(free_port()), "MILLRACE_MODEL": model}
        words = [sys.executable, "-m", "millrace", kind]
        pid = stack.enter_context(process(words, env, folder / f"{kind}.log"))
        client = stack.enter_context(redis.Redis.from_url(url, protocol=2))
        # One connection is this process' own.
        until(lambda: int(client.info("clients")["connected_clients"]) > 1, 120.0, folder)
        time.sleep(SETTLE_S)
        used = (cpu_s(pid), cpu_s(redis_pid), commands(client), Usage.read([client]).moved)
        time.sleep(seconds)
        now = (cpu_s(pid), cpu_s(redis_pid), commands(client), Usage.read([client]).moved)
        spent = [(after - before) * HOUR_S / seconds for before, after in zip(used, now, strict=True)]
        return Standby(kind, *spent)


def fleet_share(workers: int, hubs: int, seconds: float) -> float:
    """Percent of one core that Redis uses for an idle fleet."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url, _ = stack.enter_context(redis_in_memory(folder))
        client = stack.enter_context(redis.Redis.from_url(url, protocol=2))
        for first in range(0, workers, PER_PROCESS):
            count = min(PER_PROCESS, workers - first)
            stack.enter_context(host(run_workers, [url], 1, first, count))
        stack.enter_context(host(run_hubs, [url], hubs))
        time.sleep(SETTLE_S)
        before = Usage.read([client])
        time.sleep(seconds)
        after = Usage.read([client])
        return 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="stub")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--hubs", type=int, default=10)
    args = parser.parse_args()
    found = []
    for kind in KINDS:
        report.progress(f"{kind}: {args.seconds:g} s of nothing to do")
        found.append(measure(kind, args.model, args.seconds))
    report.table(COLUMNS, [one.cells() for one in found])
    report.progress(f"{args.workers} idle workers, {args.hubs} idle hubs")
    share = fleet_share(args.workers, args.hubs, args.seconds)
    what = f"percent of a Redis core for {args.workers} idle workers and {args.hubs} hubs"
    goals = [report.goal(what, share, GOAL_SHARE, at_most=True)]
    kinds = {one.kind: asdict(one) for one in found}
    report.finish(
        "standby", {"seconds": args.seconds, "an_hour": kinds, "fleet_percent": share, "goals": goals}
    )


if __name__ == "__main__":
    main()
