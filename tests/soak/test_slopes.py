"""The bound of a slope sees a planted leak, and is not fooled by correlated samples."""

from __future__ import annotations

import numpy as np
import pytest

from tests.soak.slopes import LIMIT, PARTS, slope, statistic

SECONDS, EVERY_S = 3600, 5.0
SERIES = 200


def series(
    rng: np.random.Generator, growth: float, noise: float, correlation_s: float
) -> list[tuple[float, float]]:
    """About 100; grows by `growth` an hour, with noise of that deviation that lasts for `correlation_s`."""
    times = np.arange(0, SECONDS, EVERY_S)
    stays = np.exp(-EVERY_S / correlation_s)
    shocks = rng.normal(0, noise * np.sqrt(1 - stays**2), len(times))
    values = np.empty(len(times))
    last = rng.normal(0, noise)
    for number, shock in enumerate(shocks):
        last = values[number] = stays * last + shock
    return list(zip(times, 100 + growth * times / 3600 + values, strict=True))


@pytest.mark.parametrize("correlation_s", [0.1, 20, 40])
def test_the_upper_bound_lies_above_the_slope_nineteen_times_in_twenty(correlation_s: float) -> None:
    rng = np.random.default_rng(1)
    found = [slope(series(rng, 0.0, 1.0, correlation_s), SECONDS) for _ in range(SERIES)]
    above = sum(one.upper >= 0 for one in found) / SERIES
    assert above >= 0.92  # 0.95, less what 200 draws may deviate


@pytest.mark.parametrize("correlation_s", [0.1, 30])
def test_a_planted_leak_of_three_per_cent_an_hour_is_seen_and_its_absence_is_too(
    correlation_s: float,
) -> None:
    rng = np.random.default_rng(2)
    leaks = [slope(series(rng, 3.0, 0.2, correlation_s), SECONDS) for _ in range(SERIES)]
    assert {one.verdict for one in leaks} <= {"grows", "unclear"}
    assert all(one.upper > LIMIT for one in leaks)
    still = [slope(series(rng, 0.0, 0.2, correlation_s), SECONDS) for _ in range(SERIES)]
    assert sum(one.verdict == "flat" for one in still) > 0.8 * SERIES
    assert sum(one.verdict == "grows" for one in still) < 0.08 * SERIES


def counts(rng: np.random.Generator, leaks_at: float = SECONDS) -> list[tuple[float, float]]:
    """20 that stay and some that come and go for about 10 s; from `leaks_at`, one more stays."""
    times = np.arange(0, SECONDS, EVERY_S)
    come = rng.poisson(0.5, len(times))
    going = [come[at] + come[max(at - 1, 0)] for at in range(len(times))]
    return [(at, 20 + more + (at >= leaks_at)) for at, more in zip(times, going, strict=True)]


def test_one_of_twenty_that_stays_is_seen_and_those_that_come_and_go_are_not() -> None:
    rng = np.random.default_rng(3)
    still = [counts(rng) for _ in range(SERIES)]
    assert sum(slope(one, SECONDS, "least").verdict == "flat" for one in still) > 0.95 * SERIES
    # The line through the means cannot tell.
    assert sum(slope(one, SECONDS).verdict == "flat" for one in still) < 0.5 * SERIES
    part_s = SECONDS / 2 / PARTS["least"]
    for leaks_at in rng.uniform(SECONDS / 2 + 60, SECONDS - part_s, SERIES):
        assert slope(counts(rng, leaks_at), SECONDS, "least").verdict != "flat"


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (3.0, False)])
def test_each_of_the_replaced_workers_but_the_first_counts(growth: float, flat: bool) -> None:
    rng = np.random.default_rng(4)
    times = np.arange(30) * SECONDS / 30
    runs = [
        [(at, 100 + growth * at / 3600 + rng.normal(0, 0.4) + 25 * (not at)) for at in times]
        for _ in range(SERIES)
    ]
    found = [slope(run, SECONDS, "each") for run in runs]
    assert sum((one.verdict == "flat") == flat for one in found) > 0.9 * SERIES
    assert all(one.most > 120 > one.level for one in found)
    with pytest.raises(ValueError, match="no 28 samples"):
        slope(runs[0][:-1], SECONDS, "each")


def test_memory_is_a_mean_and_what_is_counted_is_the_least() -> None:
    assert statistic("API: resident, MiB") == statistic("Redis: memory used, MiB") == "mean"
    assert statistic("Redis: keys") == "mean"
    assert statistic("API: threads") == statistic("Redis: clients") == "least"
    assert statistic("Redis: lasting keys") == "least"
    assert statistic("replaced worker, at its end: resident, MiB") == "each"


def test_what_never_changes_is_flat_and_what_is_always_nothing_too() -> None:
    times = np.arange(0, SECONDS, EVERY_S)
    assert slope([(at, 7) for at in times], SECONDS).upper == pytest.approx(0)
    assert slope([(at, 0) for at in times], SECONDS).verdict == "flat"


def test_growth_of_the_first_half_does_not_count() -> None:
    samples = [(at, min(at, SECONDS / 2)) for at in np.arange(0, SECONDS, EVERY_S)]
    assert slope(samples, SECONDS).verdict == "flat"


def test_a_part_without_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        slope([(at, 1.0) for at in range(1000)], SECONDS)
