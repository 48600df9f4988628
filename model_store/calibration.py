"""Metrics of a classifier: accuracy with its confidence interval, calibration, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model_store.rows import sigmoid, softmax

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927)."""
    share, spread = right / total, z * z / total
    centre = share + spread / 2
    margin = z * math.sqrt((share * (1 - share) + spread / 4) / total)
    return (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)


def log_loss(logits: Scores, labels: Labels, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats."""
    chosen = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def binary_log_loss(logits: Scores, expected: NDArray[np.bool_], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of each label on its own, in nats; both of shape (texts, labels)."""
    chosen = np.where(expected, sigmoid(logits, temperature), sigmoid(-logits, temperature))
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def fit_temperature(logits: Scores, labels: Labels) -> float:
    """The temperature in [0.25, 4] that minimises the log loss, to two decimals."""
    return _least(lambda temperature: log_loss(logits, labels, temperature))


def fit_binary_temperature(logits: Scores, expected: NDArray[np.bool_]) -> float:
    """The same for labels of which a text may have any number; `expected` has shape (texts, labels)."""
    return _least(lambda temperature: binary_log_loss(logits, expected, temperature))


def _least(loss: Callable[[float], float]) -> float:
    grid = np.arange(0.25, 4.0, 0.01)
    return round(float(grid[int(np.argmin([loss(float(temperature)) for temperature in grid]))]), 2)
