"""Runs benchmarks in turn, each in a separate process, and ends with a table of their goals.

python -m benchmarks [NAME ...]

A benchmark that crashes does not stop the next one. The status is 1 where a goal was missed or a benchmark
did not finish.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import report
from benchmarks.channel import run_with_channel

# What `make bench` runs, with the options that keep it to about ten minutes.
SUITE: dict[str, tuple[str, ...]] = {
    "limit": ("--rounds", "1", "--texts", "96"),
    "arithmetic": (),
    "idle": (),
    "queue_alone": (),
    "standby": ("--seconds", "10"),
    "mixed": ("--seconds", "8"),
    "hit": ("--rounds", "3", "--seconds", "2"),
    "miss": ("--engines", "torch:f32,openvino:bf16,openvino:int8", "--loads", "32x8", "--seconds", "8"),
    "sizing": ("--seconds", "2"),
    "overload": (),
    "long_texts": ("--texts", "200", "--seconds", "8", "--cancel"),
    "crowd": (),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One benchmark that has ended: its exit status, and its goals (None where it did not finish)."""

    name: str
    status: int
    goals: list[dict[str, Any]] | None

    @property
    def passed(self) -> bool:
        """Whether it finished and met every goal."""
        return self.goals is not None and all(goal["met"] for goal in self.goals)


def run(name: str, command: list[str]) -> Run:
    """Runs one benchmark, which writes to the terminal and sends its goals over a pipe."""
    print(f"\n== {name}", flush=True)
    status, messages = run_with_channel(command)
    return Run(name, status, messages[-1]["goals"] if messages else None)


def rows(runs: list[Run]) -> list[list[str]]:
    """The table of goals, one row for each, and one for each benchmark that has none or did not finish."""
    shown = []
    for one in runs:
        if one.goals is None:
            shown.append([one.name, f"DID NOT FINISH (status {one.status})", "", ""])
        elif not one.goals:
            shown.append([one.name, "finished, has no goal", "", ""])
        for goal in one.goals or ():
            sign = "<=" if goal["at_most"] else ">="
            outcome = "met" if goal["met"] else "MISSED"
            measured = f"{goal['measured']:.3g}"
            shown.append([f"{one.name}: {goal['goal']}", outcome, measured, f"{sign} {goal['bound']:g}"])
    return shown


def main() -> int:
    """Runs the suite, or the named part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITE)}; all by default")
    names = parser.parse_args().names or list(SUITE)
    if unknown := set(names) - set(SUITE):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SUITE)}")
    runs = [run(name, [sys.executable, "-m", f"benchmarks.{name}", *SUITE[name]]) for name in names]
    facts = report.facts()
    print(f"\n{facts['processor']}, {facts['cores']} cores")
    report.table(["goal", "", "measured", "bound"], rows(runs))
    return 0 if all(one.passed for one in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
