"""How many processes a load needs, by the costs of a text."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.sizing import PAGE, SHARES, Cost, ceiling_lines, full, plan, plan_lines, read_costs
from tests.repo.manifests import K8S

NOTHING = {"redis": 0.0, "api": 0.0, "worker0": 0.0}
LARGE = Cost({"redis": 40.0, "api": 30.0, "worker0": 50.0}, NOTHING, NOTHING)
SINGLE = Cost(
    {"redis": 110.0, "api": 300.0, "worker0": 120.0},
    {"redis": 0.0, "api": 70.0, "worker0": 0.0},
    {"redis": 8.0, "api": 140.0, "worker0": 0.0},
)


@pytest.mark.parametrize(
    ("texts_per_s", "known", "cost", "workers", "redis", "api"),
    [
        (1, 0.0, LARGE, 1, 1, 2),
        (10_000, 0.0, LARGE, 20, 1, 2),
        (100_000, 0.0, LARGE, 191, 7, 5),
        # Workers need 1.40 ms instead of 1.33 for a text, Redis 11 s of a core a second, the API 30.
        (100_000, 0.0, SINGLE, 201, 19, 43),
        # 20 % are computed; half of the others cost the API 70 us and half 140.
        (10_000, 0.8, SINGLE, 5, 1, 3),
    ],
)
def test_what_a_load_needs(
    texts_per_s: float, known: float, cost: Cost, workers: int, redis: int, api: int
) -> None:
    needed = plan(texts_per_s, known, cost, LARGE)
    assert (needed.workers["default"], needed.redis, needed.api) == (workers, redis, api)
    assert needed.cores("default") == 2 * workers + redis + api


def test_the_page_has_both_tables() -> None:
    page = PAGE.read_text()
    for name in ("costs", "sizes", "ceilings"):
        assert page.count(f"<!-- {name} -->\n\n| ") == 1
        assert page.count(f" |\n\n<!-- end of {name} -->") == 1


def test_the_tables_follow_from_the_costs_above_them() -> None:
    page, costs = PAGE.read_text(), read_costs()
    assert list(costs) == [1, 4, 32]
    for lines in (plan_lines(costs), ceiling_lines(costs)):
        assert "\n".join(lines) in page


def test_autoscalers_stopped_before_one_redis_was_used_up() -> None:
    """Single texts that are mostly known need 11 API replicas, new ones in large requests 34 workers."""
    costs = read_costs()
    plans = [plan(full(known, cost), known, cost, costs[32]) for known in SHARES for cost in costs.values()]
    api = yaml.safe_load((K8S / "components/hpa/horizontalpodautoscaler.yaml").read_text())
    worker = yaml.safe_load((K8S / "components/keda/scaledobject.yaml").read_text())
    assert api["spec"]["maxReplicas"] >= max(one.api for one in plans)
    assert worker["spec"]["maxReplicaCount"] >= max(one.workers["default"] for one in plans)
    most = max(one.workers["distilbert-base"] for one in plans)
    assert f"With distilbert-base, raise the latter to {most}\n" in PAGE.read_text()
