"""How many processes a load needs, by the costs of a text."""

from __future__ import annotations

import pytest

from benchmarks.sizing import PAGE, Cost, plan

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
        (10_000, 0.0, LARGE, 15, 1, 2),
        (100_000, 0.0, LARGE, 143, 7, 5),
        # Workers need 1.07 ms instead of 1 for a text, Redis 11 s of a core a second, the API 30.
        (100_000, 0.0, SINGLE, 153, 19, 43),
        # 20 % are computed; half of the others cost the API 70 us and half 140.
        (10_000, 0.8, SINGLE, 4, 1, 3),
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
    for name in ("costs", "sizes"):
        assert page.count(f"<!-- {name} -->\n\n| ") == 1
        assert page.count(f" |\n\n<!-- end of {name} -->") == 1
