"""Figures of two labels against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from default_model import calibration
from default_model.calibration import fit_line


def test_expected_calibration_error_of_an_overconfident_model() -> None:
    probabilities = np.array([[0.0, 1.0]] * 10)
    labels = np.array([1] * 7 + [0] * 3)
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(0.3)


def test_summary_counts_per_class() -> None:
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    result = calibration.summary(logits, np.array([0, 1, 1, 1]))
    assert result["accuracy"] == 0.75
    assert result["classes"]["NEGATIVE"] == {"precision": 0.5, "recall": 1.0}
    assert result["classes"]["POSITIVE"] == {"precision": 1.0, "recall": pytest.approx(2 / 3)}


def test_a_line_makes_margins_probabilities() -> None:
    rng = np.random.default_rng(1)
    margins = rng.normal(0, 3, 4000)
    positive = (rng.random(4000) < 1 / (1 + np.exp(-(0.5 * margins - 1)))).astype(float)
    slope, offset = fit_line(margins, positive)
    assert (slope, offset) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1, abs=0.15))
    assert fit_line(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))[0] < 5
