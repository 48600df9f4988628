"""Holds out a stratified share of labelled rows. Rows of one text stay together. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from model_store.training.survey import normal
from model_store.training.table import LabelledRow

Parts = tuple[list[LabelledRow], list[LabelledRow]]


def hold_out(rows: Sequence[LabelledRow], share: float, seed: int) -> Parts:
    """Divide rows into those to train on and a stratified `share` of them to hold out.

    A label with two or more texts has at least one in each part. A row with several labels counts for the
    rarest of them. The same rows, share and seed always give the same parts.
    """
    texts: dict[str, list[LabelledRow]] = {}
    for row in rows:
        texts.setdefault(normal(row.text), []).append(row)
    counts = Counter(label for row in rows for label in row.labels)
    strata: dict[str, list[list[LabelledRow]]] = {}
    for same in texts.values():
        labels = {label for row in same for label in row.labels}
        rarest = min(labels, key=lambda label: (counts[label], label), default="")
        strata.setdefault(rarest, []).append(same)
    parts: Parts = ([], [])
    for label in sorted(strata):
        groups = strata[label]
        Random(f"{seed}/{label}").shuffle(groups)
        out = min(len(groups) - 1, max(1, round(len(groups) * share)))
        for number, same in enumerate(groups):
            parts[number < out].extend(same)
    return parts


def without_texts_of(rows: Sequence[LabelledRow], test: Sequence[LabelledRow]) -> list[LabelledRow]:
    """The rows whose texts do not stand in `test`."""
    known = {normal(row.text) for row in test}
    return [row for row in rows if normal(row.text) not in known]
