"""Runs many schedules, and makes one that breaks a promise shorter."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from tests.simulation.plan import Plan, draw
from tests.simulation.planted import PLANTED
from tests.simulation.schedule import Schedule

FIND_S = 600.0


class Broken(AssertionError):
    """A schedule has broken a promise."""


def problems_of(plan: Plan) -> list[str]:
    """The promises that a schedule breaks. An error of the simulation's own counts as one."""
    schedule = Schedule(plan)
    try:
        schedule.run()
    except Exception as error:
        return [*schedule.problems, repr(error)]
    return schedule.problems


def search(seeds: Iterable[int], *, shrink: bool = True) -> None:
    """Raises Broken for the first of these seeds whose schedule breaks a promise."""
    for seed in seeds:
        if problems := problems_of(plan := draw(seed)):
            lines = [f"seed {seed}, see `python -m tests.simulation {seed}`:", *problems]
            if shrink:
                lines.append(f"Shorter: {shrunk(plan)}")
            raise Broken("\n".join(lines))


def shrunk(plan: Plan) -> Plan:
    """The plan without the accidents and requests that it does not need to break a promise."""
    for part in ("accidents", "requests"):
        for one in list(getattr(plan, part)):
            shorter = replace(plan, **{part: [other for other in getattr(plan, part) if other is not one]})
            if problems_of(shorter):
                plan = shorter
    return plan


def search_planted(first_seed: int) -> int:
    """Prints how long it takes to find each planted fault. Returns how many are not found in FIND_S."""
    missed = 0
    for fault in PLANTED:
        began, seed, found = time.monotonic(), first_seed, ""
        with fault.inject():
            while not found and time.monotonic() - began < FIND_S:
                found = "; ".join(problems_of(draw(seed)))[:150]
                seed += 1
        missed += not found
        took = (
            f"{time.monotonic() - began:6.1f} s  {fault.name}: {found}"
            if found
            else f"NOT FOUND  {fault.name}"
        )
        print(took, flush=True)
    return missed


def formatted(trace: Iterable[tuple[object, ...]]) -> str:
    """A trace to read."""
    return "\n".join(" ".join(str(word)[:100] for word in line) for line in trace)
