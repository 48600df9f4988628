"""Figures of two labels, and the line that makes a teacher's margins probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.figures import Labels, Scores, wilson_interval
from model_store.rows import sigmoid, softmax


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
