"""Searches for histories in which the queue or a job loses, repeats or mistakes a text.

    python -m tests.search [--machine queue|jobs|simulation] [--minutes 60] [--seed 1] [--planted]

Each round runs random histories from a separate seed, on a real server or, every tenth round, on a real and
a fake one that must agree. It ends with status 1 and the shortest history once one is found.
`simulation` runs schedules of hubs and workers on simulated time instead (tests/simulation); after each round
of `queue`, as many of those follow. `--planted` first breaks the scripts, or hubs and workers, on purpose, in
each of the ways that `planted.py` lists, and prints how long it takes to find each; it ends with status 1 if
one is not found in ten minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import fakeredis
import redis

from tests.search.jobs_machine import JobsMachine
from tests.search.planted import PLANTED, planted
from tests.search.queue_machine import QueueMachine
from tests.search.rounds import search
from tests.servers import RedisServer, server_binary
from tests.simulation import rounds as simulation

ROUND = 100
FIND_S = 600.0
MACHINES = {"queue": QueueMachine, "jobs": JobsMachine}
SIMULATION = "simulation"


@contextmanager
def real_server() -> Iterator[redis.Redis]:
    binary = server_binary()
    if binary is None:
        raise SystemExit("No redis-server was found: install one, or set TEST_REDIS_SERVER.")
    server = RedisServer(binary).start()
    client = server.client()
    try:
        yield client
    finally:
        client.close()
        server.close()


def search_planted(client: redis.Redis, machine: str, first_seed: int) -> int:
    """How many of the faults planted for a machine are not found."""
    missed = 0
    for fault in PLANTED:
        if fault.machine != machine:
            continue
        began, seed = time.monotonic(), first_seed
        with planted(fault):
            found = False
            while not found and time.monotonic() - began < FIND_S:
                try:
                    search(MACHINES[machine], [client], ROUND, seed=seed, shrink=False)
                except Exception as error:
                    found = True
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    print(f"{time.monotonic() - began:6.1f} s  {fault.name}: {reason}", flush=True)
                seed += 1
        if not found:
            missed += 1
            print(f"NOT FOUND  {fault.name}", flush=True)
    return missed


def search_all(client: redis.Redis, machine: str, minutes: float, first_seed: int) -> None:
    """Raises the failure of the first history that breaks a promise."""
    began, seed = time.monotonic(), first_seed
    while (spent := time.monotonic() - began) < minutes * 60:
        clients = [client, fakeredis.FakeRedis(version=(7,))] if seed % 10 == 0 else [client]
        if sys.stderr.isatty() or seed % 10 == 0:
            print(f"{spent:5.0f} s  seed {seed}, {ROUND} histories a round, nothing found", flush=True)
        search(MACHINES[machine], clients, ROUND, seed=seed)
        if machine == "queue":
            simulation.search(schedules(seed))
        seed += 1
    print(f"{(seed - first_seed) * ROUND} histories, seeds {first_seed} to {seed - 1}: nothing found")


def schedules(round_seed: int) -> range:
    """The seeds of the schedules of a round."""
    return range(round_seed * ROUND, (round_seed + 1) * ROUND)


def simulate(minutes: float, first_seed: int) -> None:
    """As `search_all`, for schedules of hubs and workers. A round has the seeds of `schedules`."""
    began, seed = time.monotonic(), first_seed
    while (spent := time.monotonic() - began) < minutes * 60:
        if sys.stderr.isatty() or seed % 10 == 0:
            print(f"{spent:5.0f} s  seed {seed}, {ROUND} schedules a round, nothing found", flush=True)
        simulation.search(schedules(seed))
        seed += 1
    print(f"{(seed - first_seed) * ROUND} schedules, seeds {first_seed} to {seed - 1}: nothing found")


def main() -> int:
    """Runs the search. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", choices=[*sorted(MACHINES), SIMULATION], default="queue")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", action="store_true")
    args = parser.parse_args()
    if args.machine == SIMULATION:
        if args.planted:
            return 1 if simulation.search_planted(args.seed) else 0
        simulate(args.minutes, args.seed)
        return 0
    with real_server() as client:
        if args.planted:
            return 1 if search_planted(client, args.machine, args.seed) else 0
        search_all(client, args.machine, args.minutes, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
