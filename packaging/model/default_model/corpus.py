"""Reads the SST-2 files and holds out sentences for tuning, without leaking their phrases."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A text and the probability that it is positive: 0, 1, or 0.5 for a neutral text."""

    text: str
    positive: float


@dataclass(frozen=True, slots=True)
class Split:
    """Training phrases and sentences, and held-out sentences, none of which contains a training phrase."""

    phrases: tuple[Row, ...]
    sentences: tuple[Row, ...]
    held_out: tuple[Row, ...]


def read_rows(path: Path) -> list[Row]:
    """Read a TSV with header `sentence<TAB>label`. Raises ValueError with file and line on a bad row."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        if next(lines, "").rstrip("\n") != "sentence\tlabel":
            raise ValueError(f"{path}: the first line must be sentence<TAB>label")
        for number, line in enumerate(lines, start=2):
            text, _, label = line.rstrip("\n").rpartition("\t")
            if label not in ("0", "1"):
                raise ValueError(f"{path}:{number}: the label must be 0 or 1, got {label!r}")
            rows.append(Row(text.strip(), float(label)))
    return rows


def split_rows(
    phrases: Sequence[Row],
    sentences: Sequence[Row],
    *,
    held_out: int,
    seed: int,
    excluded: Iterable[str] = (),
) -> Split:
    """Hold out `held_out` full sentences, and every phrase that occurs in one of them.

    Phrases of one sentence overlap, so a random split of the phrases would leak. `excluded` texts (the dev
    sentences) are never used for training.
    """
    shuffled = list(sentences)
    random.Random(seed).shuffle(shuffled)
    kept_out, rest = shuffled[:held_out], shuffled[held_out:]
    forbidden = {_normal(text) for text in excluded} | {_normal(row.text) for row in kept_out}
    forbidden |= _contained(phrases, kept_out)
    full = {_normal(row.text) for row in rest}
    return Split(
        phrases=tuple(
            row for row in phrases if _normal(row.text) not in forbidden and _normal(row.text) not in full
        ),
        sentences=tuple(row for row in rest if _normal(row.text) not in forbidden),
        held_out=tuple(kept_out),
    )


def _contained(phrases: Sequence[Row], sentences: Sequence[Row]) -> set[str]:
    """The phrases of more than one word that occur in a sentence; a single word does not leak a label."""
    haystack = "\n".join(f" {_normal(row.text)} " for row in sentences)
    spans = {_normal(row.text) for row in phrases}
    return {span for span in spans if " " in span and f" {span} " in haystack}


def _normal(text: str) -> str:
    return " ".join(text.split())
