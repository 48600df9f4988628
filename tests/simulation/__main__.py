"""Runs one schedule and prints it: see `tests.simulation`."""

from __future__ import annotations

import argparse
import sys

import tests.simulation
from tests.simulation.plan import draw
from tests.simulation.rounds import formatted, problems_of, shrunk
from tests.simulation.schedule import Schedule


def main() -> int:
    """Returns 1 if the schedule breaks a promise."""
    parser = argparse.ArgumentParser(
        description=tests.simulation.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("--shrink", action="store_true")
    args = parser.parse_args()
    plan = draw(args.seed)
    if args.shrink and problems_of(plan):
        plan = shrunk(plan)
    schedule = Schedule(plan)
    schedule.run()
    print(plan, formatted(schedule.trace), *schedule.problems, sep="\n")
    return 1 if schedule.problems else 0


if __name__ == "__main__":
    sys.exit(main())
