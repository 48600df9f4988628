"""The simulation that chose the figures of the ScaledObject: its autoscaler follows Kubernetes' rules."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("numpy")

from benchmarks.hpa import SYNC_S, Autoscaler, Policy, Rules, read_policy
from benchmarks.scaling import MODELS, Shape, shapes, simulate

ROOT = Path(__file__).parents[2]
FREELY = Rules(0.0, (("Percent", 1000, 15.0),))
POLICY = Policy(target=10.0, least=1, most=20, up=FREELY, down=Rules(0.0, (("Percent", 100, 15.0),)))


def args() -> argparse.Namespace:
    return argparse.Namespace(texts=4, seed=1, start_s=10.0, budget_s=10.0, day_s=1200.0)


@pytest.mark.parametrize(("work", "replicas"), [(0, 1), (10, 1), (10.9, 1), (11.1, 2), (55, 6), (10_000, 11)])
def test_replicas_are_work_by_target_beyond_the_tolerance(work: float, replicas: int) -> None:
    """11: the most that one step may add to one replica, whatever is wished."""
    assert Autoscaler(POLICY).look(0.0, work) == replicas


def test_it_stays_within_its_bounds() -> None:
    scaler = Autoscaler(POLICY)
    assert [scaler.look(at * SYNC_S, 10_000) for at in range(3)] == [11, 20, 20]


def test_down_only_after_the_window_and_one_step_at_a_time() -> None:
    down = Rules(60.0, (("Pods", 1, 30.0),))
    scaler = Autoscaler(replace(POLICY, down=down))
    scaler.look(0.0, 50)
    assert scaler.replicas == 5
    replicas = [scaler.look(at * SYNC_S, 0) for at in range(1, 10)]
    # The wish of 5 at second 0 holds for a minute; then one pod may go every 30 s.
    assert replicas == [5, 5, 5, 5, 4, 4, 3, 3, 2]


def test_up_by_the_larger_of_two_rates() -> None:
    up = Rules(0.0, (("Percent", 100, 30.0), ("Pods", 4, 30.0)))
    scaler = Autoscaler(replace(POLICY, up=up))
    assert [scaler.look(at * SYNC_S, 10_000) for at in range(5)] == [5, 5, 10, 10, 20]


def test_a_steady_load_within_one_worker_needs_one() -> None:
    model = MODELS[0]
    shape = Shape("steady", 300, lambda t: 0.5 * model.rate + 0 * t)
    outcome = simulate(shape, model, read_policy(), args())
    assert outcome.replicas == [(0.0, 1)]
    assert outcome.missed == 0.0
    assert outcome.wait_ms(99) < 100


def test_the_deployed_policy_carries_the_loads() -> None:
    """Only the step may cost budgets: nothing scales before it happened, and a worker takes its time."""
    slow = MODELS[-1]
    for shape in shapes(slow.rate, args().day_s):
        outcome = simulate(shape, slow, read_policy(), args())
        assert outcome.missed < (0.03 if shape.name == "10x step" else 0.001), shape.name


def test_the_page_states_the_figures_of_the_manifest() -> None:
    page = (ROOT / "docs/capacity.md").read_text()
    policy = read_policy()
    assert f'`target: "{policy.target:.0f}"`' in page
    assert f"{policy.least} to {policy.most} workers" in page
    assert f"{policy.down.window_s:.0f} s" in page
