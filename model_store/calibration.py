"""Metrics of a classifier: accuracy with its confidence interval, calibration, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]


def softmax(logits: Scores, temperature: float = 1.0) -> Scores:
    """Probabilities of shape (texts, labels) from logits of the same shape."""
    scaled = logits / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927)."""
    share, spread = right / total, z * z / total
    centre = share + spread / 2
    margin = z * math.sqrt((share * (1 - share) + spread / 4) / total)
    return (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)


def expected_calibration_error(probabilities: Scores, labels: Labels, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equal-width bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for number in np.unique(bin_of):
        chosen = bin_of == number
        error += chosen.mean() * abs(confidence[chosen].mean() - right[chosen].mean())
    return float(error)


def log_loss(logits: Scores, labels: Labels, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats."""
    chosen = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def sigmoid(logits: Scores, temperature: float = 1.0) -> Scores:
    """The probability of each label on its own, of the shape of `logits`."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits / temperature)))


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


def fit_line(margins: Scores, positive: Scores) -> tuple[float, float]:
    """Slope and offset for which the sigmoid of `margins` has the least log loss (Platt 1999).

    Both have shape (texts,). The targets are drawn in by one text of each label, so that the slope is finite.
    """
    ones = float(positive.sum())
    targets = np.where(positive > 0.5, (ones + 1) / (ones + 2), 1 / (len(positive) - ones + 2))
    features = np.stack([margins, np.ones(len(margins))], axis=1)
    line = np.array([1.0, 0.0])
    for _ in range(50):
        scores = sigmoid(features @ line)
        weights = np.maximum(scores * (1 - scores), 1e-6)
        curvature = features.T @ (features * weights[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, features.T @ (scores - targets))
        line = line - np.clip(step, -1.0, 1.0)
    return float(line[0]), float(line[1])


def _least(loss: Callable[[float], float]) -> float:
    grid = np.arange(0.25, 4.0, 0.01)
    return round(float(grid[int(np.argmin([loss(float(temperature)) for temperature in grid]))]), 2)


def summary(logits: Scores, labels: Labels, temperature: float = 1.0) -> dict[str, Any]:
    """Accuracy with interval, precision and recall per class, and calibration. `logits`: (texts, 2)."""
    predicted = logits.argmax(axis=1)
    right = int((predicted == labels).sum())
    return {
        "texts": len(labels),
        "accuracy": right / len(labels),
        "interval_95": wilson_interval(right, len(labels)),
        "classes": {
            name: {
                "precision": _share(labels[predicted == number] == number),
                "recall": _share(predicted[labels == number] == number),
            }
            for number, name in enumerate(("NEGATIVE", "POSITIVE"))
        },
        "expected_calibration_error": expected_calibration_error(softmax(logits), labels),
        "expected_calibration_error_with_temperature": expected_calibration_error(
            softmax(logits, temperature), labels
        ),
    }


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
