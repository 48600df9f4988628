"""Calibration measures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model_store import figures


def test_wilson_interval_of_a_known_proportion() -> None:
    low, high = figures.wilson_interval(90, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)


def test_the_fitted_temperature_recovers_the_one_that_was_applied() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (20_000, 2))
    chance = figures.softmax(logits)[:, 1]
    labels = (rng.random(20_000) < chance).astype(np.int64)
    assert figures.fit_temperature(logits * 2, labels) == pytest.approx(2.0, abs=0.1)


def test_thresholds_of_labels_are_from_a_twentieth_to_nineteen_and_a_half_if_any_will_do() -> None:
    scores = np.array([[0.05, 0.95, 0.9], [0.04, 0.94, 0.1]])
    expected = np.array([[True] * 3, [False] * 3])
    thresholds = figures.fit_thresholds(scores, expected)
    assert thresholds == [0.05, 0.95, 0.5]
    assert figures.choose(scores, thresholds).tolist() == expected.tolist()
    assert figures.choose(scores, None).tolist() == [[False, True, False]] * 2
