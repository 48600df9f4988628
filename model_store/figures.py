"""Figures of a classifier on labelled texts, from its scores: accuracy, per label, confusion, calibration.

Also the temperature and the thresholds with which scores are best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.rows import sigmoid, softmax

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
Chosen = NDArray[np.bool_]
_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision, recall and F1 of one label, and its number of texts."""

    label: str
    texts: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores of one interval: how many, their mean, and the share of them that were right."""

    count: int
    score: float
    right: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A text counts as right if exactly its labels are chosen.

    `f1` is the mean over labels; `calibration_error` is Guo et al.'s (2017), over the scores of the chosen
    labels, or of all labels if a text may have several. `confusion` has the labels of the texts as rows and
    the chosen ones as columns; it is empty if a text may have several.
    """

    texts: int
    accuracy: float
    interval_95: tuple[float, float]
    f1: float
    calibration_error: float
    classes: tuple[ClassReport, ...]
    bins: tuple[Bin, ...]
    confusion: tuple[tuple[int, ...], ...]

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        low, high = self.interval_95
        width = max(18, *(len(one.label) for one in self.classes))
        return [
            f"accuracy           {self.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})",
            f"F1, mean of labels {self.f1:.4f}",
            f"calibration error  {self.calibration_error:.4f}",
            *(
                f"{one.label:<{width}} precision {one.precision:.4f}, recall {one.recall:.4f}, "
                f"F1 {one.f1:.4f} ({one.texts} texts)"
                for one in self.classes
            ),
        ]


def label_matrix(labels: Sequence[Sequence[str]], names: Sequence[str]) -> Chosen:
    """Which of the labels `names` each text has, shape (texts, labels). Raises KeyError for any other."""
    index = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(labels), len(names)), dtype=bool)
    for row, of_text in zip(matrix, labels, strict=True):
        row[[index[label] for label in of_text]] = True
    return matrix


def choose(scores: Scores, thresholds: Sequence[float] | None) -> Chosen:
    """The labels that are chosen: those at or above their thresholds, or without thresholds the best one."""
    if thresholds is not None:
        return np.asarray(scores >= np.asarray(thresholds))
    chosen = np.zeros(scores.shape, dtype=bool)
    chosen[np.arange(len(scores)), scores.argmax(axis=1)] = True
    return chosen


def right_texts(chosen: Chosen, expected: Chosen) -> Chosen:
    """Whether exactly the expected labels are chosen, shape (texts,)."""
    return np.asarray((chosen == expected).all(axis=1))


def figures(
    labels: Sequence[str], scores: Scores, expected: Chosen, thresholds: Sequence[float] | None = None
) -> Figures:
    """Figures of scores (texts, labels) against the expected labels; `thresholds` if there may be several."""
    chosen = choose(scores, thresholds)
    right = int(right_texts(chosen, expected).sum())
    classes = tuple(
        _class_report(label, chosen[:, index], expected[:, index]) for index, label in enumerate(labels)
    )
    # With one label per text, only the chosen score counts; with several, every score is a statement.
    counted = chosen if thresholds is None else np.ones_like(chosen)
    bins = _bins(scores[counted], expected[counted])
    total = sum(one.count for one in bins)
    return Figures(
        texts=len(scores),
        accuracy=right / len(scores),
        interval_95=wilson_interval(right, len(scores)),
        f1=float(np.mean([report.f1 for report in classes])),
        calibration_error=sum(one.count * abs(one.score - one.right) for one in bins) / total,
        classes=classes,
        bins=bins,
        confusion=() if thresholds is not None else _confusion(chosen, expected),
    )


def mcnemar(one: Chosen, other: Chosen) -> tuple[int, int, float]:
    """Texts that only `one` has right, only `other`, and the exact two-sided p-value (McNemar 1947)."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n, k = only_one + only_other, min(only_one, only_other)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    tail = sum(math.exp(log - n * math.log(2)) for log in logs)
    return only_one, only_other, min(1.0, 2 * tail)


def fit_thresholds(scores: Scores, expected: Chosen) -> list[float]:
    """The threshold of each label, between 0.05 and 0.95, that has the best F1; 0.5 if several do."""
    grid = sorted((step / 20 for step in range(1, 20)), key=lambda one: abs(one - 0.5))
    found = []
    for column, is_so in zip(scores.T, expected.T, strict=True):
        f1 = [_class_report("", column >= threshold, is_so).f1 for threshold in grid]
        found.append(grid[int(np.argmax(f1))])
    return found


def _class_report(label: str, chosen: Chosen, is_so: Chosen) -> ClassReport:
    both = int((chosen & is_so).sum())
    precision, recall = _share(both, int(chosen.sum())), _share(both, int(is_so.sum()))
    f1 = _share(2 * precision * recall, precision + recall)
    return ClassReport(label, int(is_so.sum()), precision, recall, f1)


def _bins(scores: NDArray[np.float64], right: Chosen) -> tuple[Bin, ...]:
    number = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    return tuple(
        Bin(
            int((number == one).sum()),
            float(scores[number == one].mean()),
            float(right[number == one].mean()),
        )
        for one in np.unique(number)
    )


def _confusion(chosen: Chosen, expected: Chosen) -> tuple[tuple[int, ...], ...]:
    counts = expected.astype(np.int64).T @ chosen.astype(np.int64)
    return tuple(tuple(map(int, row)) for row in counts)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927)."""
    share, spread = right / total, z * z / total
    centre = share + spread / 2
    margin = z * math.sqrt((share * (1 - share) + spread / 4) / total)
    return (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)


def log_loss(logits: Scores, expected: NDArray[Any], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats.

    `expected` has the number of each text's label, or shape (texts, labels) if a text may have several: then
    each label counts on its own.
    """
    if expected.ndim == 2:
        chosen = np.where(expected, sigmoid(logits, temperature), sigmoid(-logits, temperature))
    else:
        chosen = softmax(logits, temperature)[np.arange(len(expected)), expected]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def fit_temperature(logits: Scores, expected: NDArray[Any]) -> float:
    """The temperature in [0.25, 4] that minimises the log loss, to two decimals."""
    grid = np.arange(0.25, 4.0, 0.01)
    losses = [log_loss(logits, expected, float(temperature)) for temperature in grid]
    return round(float(grid[int(np.argmin(losses))]), 2)
