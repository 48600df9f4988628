"""Cycles that a busy machine delays overlap no others, and growth is judged by cycle."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.soak.run import Plan, _Run
from tests.soak.schedule import Schedule
from tests.soak.slopes import slope

CYCLES, CYCLE_S = 30, 40.0
SECONDS = CYCLES * CYCLE_S


async def test_a_cycle_that_is_late_delays_the_next_instead_of_overlapping_it() -> None:
    """Sleeps may take longer on a busy machine, and never shorter."""
    cycle_s, begun, took_s = 0.05, list[float](), iter([0.0, 0.2, 0.0])
    schedule = Schedule(cycle_s)

    async def load() -> None:
        begun.append(schedule.passed_s)
        await asyncio.sleep(next(took_s))

    async def replace() -> None:
        begun.append(schedule.passed_s)

    for _ in range(3):
        await schedule.run_cycle([(0.1, load), (0.6, replace)])
    assert len(schedule.edges) == 4
    for cycle, (loaded, replaced) in enumerate(zip(begun[::2], begun[1::2], strict=True)):
        begin, end = schedule.edges[cycle : cycle + 2]
        assert begin + 0.1 * cycle_s <= loaded < replaced <= end
        assert replaced >= begin + 0.6 * cycle_s
        assert end - begin >= (0.2 if cycle == 1 else cycle_s)
    assert schedule.lengths[1] >= 0.2


async def test_a_worker_is_not_replaced_while_a_busy_machine_still_loads_the_revision_of_its_cycle() -> None:
    """What was recorded of it were the descriptors of a process that had been killed: none."""
    service: Any = SimpleNamespace(base_url="http://127.0.0.1:1", workers=[SimpleNamespace(pid=1)] * 2)
    seen: list[str] = []
    service.replace_worker = lambda how: seen.append("replaced")
    run: Any = _Run(service, [], Plan(0.1, cycles=1), lambda line: None)
    run._recorder = SimpleNamespace(
        second=None, sample_counts=lambda *_: None, sample_memory=lambda *_: seen.append(run._recorder.second)
    )

    async def slowly(*_: object) -> None:
        await asyncio.sleep(0.02)
        seen.append("loaded")

    run._publish = run._move = run._traffic.burst = slowly
    await asyncio.gather(run._publish_and_go_back(), run._replace())
    assert seen == ["loaded", "loaded", "loaded", None, "replaced"]
    assert run._recorder.second is None
    await run._traffic._http.aclose()


def recorded(growth: float, *, busy_s: float) -> tuple[Schedule, list[tuple[float, float]]]:
    """A second of 100 at the start of each cycle, then of 120: and `growth` more after each cycle.

    The cycles of the third quarter take `busy_s`, others their time.
    """
    schedule, samples = Schedule(CYCLE_S), list[tuple[float, float]]()
    for cycle in range(CYCLES):
        begin, length = schedule.edges[-1], busy_s if 15 <= cycle < 22 else CYCLE_S
        samples += [
            (begin + second, 100 + 20 * (second >= length / 2) + growth * cycle)
            for second in range(int(length))
        ]
        schedule.edges.append(begin + length)
    return schedule, samples


@pytest.mark.parametrize("busy_s", [CYCLE_S, 2 * CYCLE_S])
@pytest.mark.parametrize(("percent", "verdict"), [(0.0, "flat"), (3.0, "grows")])
def test_growth_is_what_each_cycle_adds_however_long_a_busy_machine_needs_for_it(
    percent: float, verdict: str, busy_s: float
) -> None:
    growth = percent / 100 * 110 * CYCLE_S / 3600
    schedule, samples = recorded(growth, busy_s=busy_s)
    found = slope(schedule.planned(samples), SECONDS)
    assert found.verdict == verdict
    assert found.percent == pytest.approx(percent, abs=0.05)
