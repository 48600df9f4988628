"""The scores of a text by the labels that questions name, in whatever case or by other names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class Labels:
    """The scores of one text, found by labels or their other names.

    Case matters only where names differ in nothing else: then a name must be written as one of them.
    """

    def __init__(self, scores: Iterable[tuple[str, float]], names: Mapping[str, Sequence[str]]) -> None:
        self._scores = dict(scores)
        others = [(name, label) for label in self._scores for name in names.get(label, ())]
        labels = [(label, label) for label in self._scores]
        # Where to look, in this order: a label goes before another name, and what is written the same before
        # what differs in case. A name may stand for several labels.
        self._places = [_grouped(pairs) for pairs in (labels, _folded(labels), others, _folded(others))]

    def find(self, name: str) -> str | None:
        """The label of this name; None if it is unknown, or stands for several labels."""
        for place, key in zip(self._places, (name, name.casefold()) * 2, strict=True):
            if found := place.get(key):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def one(self, *names: str | None) -> float | None:
        """The score of the one label that these names stand for, as far as they are known; otherwise None."""
        labels = {self.find(name) for name in names if name} - {None}
        label = labels.pop() if len(labels) == 1 else None
        return None if label is None else self._scores[label]

    def several(self, names: Sequence[str]) -> list[float] | None:
        """The probabilities of options, which sum to 1. None if one is unknown, or two are the same label."""
        labels = [self.find(name) for name in names]
        if None in labels or len(set(labels)) < max(2, len(labels)):
            return None
        scores = [self._scores[label] for label in labels if label is not None]
        total = sum(scores)
        return [round(score / total, 7) if total else 1 / len(scores) for score in scores]


def _folded(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return [(name.casefold(), label) for name, label in pairs]


def _grouped(pairs: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    grouped: dict[str, set[str]] = {}
    for name, label in pairs:
        grouped.setdefault(name, set()).add(label)
    return grouped


def confidence(probabilities: Sequence[float]) -> float:
    """0 if all options are equally probable, 1 if one is certain."""
    count = len(probabilities)
    return round((count * max(probabilities) - 1) / (count - 1), 7)


def mean(probabilities: Sequence[float]) -> float:
    """The expected number of the option, from 0."""
    return round(sum(number * probability for number, probability in enumerate(probabilities)), 7)
