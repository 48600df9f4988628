"""The simulation of docs/scale.md: what it counts, and that a seed decides everything."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.fleet_model import BATCH_TEXTS, FIGURES, Change, Fleet, simulate
from benchmarks.scale import limits
from benchmarks.scale_plot import draw

SMALL = Fleet(workers=20, shards=4, speed=400)


def test_a_seed_decides_everything() -> None:
    one, same, other = (simulate(SMALL, 3000, 1.0, seed) for seed in (1, 1, 2))
    assert one.delays == same.delays != other.delays


def test_costs_agree_with_both_measurements() -> None:
    """66 us for a text with 0.57 scripts, 39 with 0.12, and 34 for one of 32 of a request."""
    assert FIGURES.text_s + 0.57 * FIGURES.script_s == pytest.approx(66e-6, rel=0.05)
    assert FIGURES.text_s + 0.12 * FIGURES.script_s == pytest.approx(39e-6, rel=0.06)
    assert FIGURES.redis_s(Fleet(1, 1, 1000)) == pytest.approx(34e-6, rel=0.05)
    costs = [FIGURES.api_s(Fleet(1, 1, 1000, texts)) for texts in (1, 4, 32)]
    assert costs == pytest.approx([163e-6, 59e-6, 27e-6], rel=0.05)


def test_a_request_in_small_parts_costs_redis_more() -> None:
    assert Fleet(1, 1, 1).part == 32
    assert FIGURES.redis_s(Fleet(1, 64, 1)) > 1.2 * FIGURES.redis_s(Fleet(1, 1, 1))


def test_what_is_asked_is_claimed_unless_it_is_refused() -> None:
    calm, lost = (simulate(SMALL, 3000, 2.0, 1, change) for change in (Change(), Change(lost=(0.5, 1.5))))
    assert calm.refused == 0
    assert calm.texts == pytest.approx(2 * 3000, rel=0.1)
    assert lost.refused == pytest.approx(3000, rel=0.2), "a request of 32 texts has one at each shard"
    deployed = simulate(SMALL, 3000, 2.0, 1, Change(deploy=(0.2, 1.8)))
    assert deployed.refused == 0
    assert calm.texts > deployed.texts > 0.8 * calm.texts


def test_what_is_full_first_is_late_first() -> None:
    workers, redis = Fleet(4, 4, 400), Fleet(1000, 1, 1000)
    assert (limits(workers).first, limits(redis).first) == ("workers", "Redis")
    for fleet in (workers, redis):
        below, above = (simulate(fleet, share * limits(fleet).rate, 1.0, 1) for share in (0.5, 1.5))
        assert below.quantile(0.99) < above.quantile(0.99)
    assert simulate(workers, 1.5 * limits(workers).rate, 1.0, 1).workers_busy > 0.9


def test_a_shard_without_workers_is_served_by_others() -> None:
    one = simulate(Fleet(1, 4, 400), 100, 5.0, 1)
    assert one.texts == pytest.approx(500, abs=2 * BATCH_TEXTS + 100)
    assert one.quantile(0.5) < 100


def test_the_picture_has_a_curve_for_each_event() -> None:
    picture = ET.fromstring(draw({"one": [(0.0, 1.0), (1.0, 200.0)], "two": [(0.0, 0.0), (1.0, 5.0)]}))
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_the_recorded_picture_is_that_of_the_script() -> None:
    recorded = (Path(__file__).parents[2] / "docs/images/scale.svg").read_text()
    assert recorded.count("<polyline") == 3
