"""Measures a model on the held-out parts: `python -m model_store.domains.measure --model DIR --sets DIR`.

Compare recipes on the part `choose`, and look at `last` once. Whole reviews are also measured in windows:
their margin is the mean of the windows' margins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from model_store.calibration import Labels, Scores, expected_calibration_error, fit_temperature, softmax
from model_store.corpus import Row
from model_store.domains.sets import LabelledSet, read_mixture

Logits = Callable[[Sequence[str]], Scores]  # texts -> logits (texts, 2)
WINDOW = 45  # words: about 62 tokens
LONG = 150  # words of the median text of a set from which on its texts are cut into windows


def fit(logits: Logits, sets: Iterable[LabelledSet]) -> float:
    """The temperature with the least log loss on 100 texts of each set's `choose`; long texts in windows."""
    scores, labels = [], []
    for one in sets:
        rows = [row for row in one.choose if row.positive != 0.5][:100]
        if rows:
            found, right = by_windows(logits, rows) if _is_long(rows) else _scored(logits, rows)
            scores.append(found)
            labels.append(right)
    return fit_temperature(np.concatenate(scores), np.concatenate(labels))


def by_windows(logits: Logits, rows: Sequence[Row]) -> tuple[Scores, Labels]:
    """Scores of each text as the mean of the logits of its windows, and labels."""
    cut = [_windows(row.text) for row in rows]
    scores = logits([text for texts in cut for text in texts])
    ends = np.cumsum([len(texts) for texts in cut])
    means = [part.mean(axis=0) for part in np.split(scores, ends[:-1])]
    return np.stack(means), _labels(rows)


def lines(
    logits: Logits, sets: Iterable[LabelledSet], part: str, temperature: float, limit: int | None = None
) -> Iterator[str]:
    """One line per set: texts, accuracy, calibration error; for neutral texts, the share of sure answers."""
    for one in sets:
        rows: Sequence[Row] = getattr(one, part)[:limit]
        scores, labels = _scored(logits, rows)
        probabilities = softmax(scores, temperature)
        if all(row.positive == 0.5 for row in rows):
            yield f"{one.name:24} {len(rows):5} above 0.9: {(probabilities.max(axis=1) > 0.9).mean():.1%}"
            continue
        yield _line(one.name, probabilities, labels)
        if _is_long(rows):
            scores, labels = by_windows(logits, rows)
            yield _line(f"{one.name}, windows", softmax(scores, temperature), labels)


def _line(name: str, probabilities: Scores, labels: Labels) -> str:
    right = probabilities.argmax(axis=1) == labels
    error = expected_calibration_error(probabilities, labels)
    sides = ", ".join(f"{right[labels == side].mean():.1%}" for side in np.unique(labels))
    return f"{name:24} {len(labels):5} {right.mean():.1%} ({sides}), ECE {error:.3f}"


def _scored(logits: Logits, rows: Sequence[Row]) -> tuple[Scores, Labels]:
    return logits([row.text for row in rows]), _labels(rows)


def _labels(rows: Sequence[Row]) -> Labels:
    return np.array([int(row.positive) for row in rows], dtype=np.int64)


def _is_long(rows: Sequence[Row]) -> bool:
    return bool(np.median([row.text.count(" ") for row in rows]) > LONG)


def _windows(text: str) -> list[str]:
    """Pieces of at most WINDOW words, of equal length."""
    words = text.split(" ")
    pieces = -(-len(words) // WINDOW)
    bounds = [len(words) * number // pieces for number in range(pieces + 1)]
    return [" ".join(words[start:end]) for start, end in pairwise(bounds)]


def main(arguments: list[str] | None = None) -> int:
    """Print the figures. Returns the exit status."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from model_store.checkpoint import read_checkpoint
    from model_store.trainer import classify

    parser = argparse.ArgumentParser(prog="python -m model_store.domains.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sets", type=Path, required=True, help="folder of the sets: NAME.tsv")
    parser.add_argument("--part", choices=("choose", "last"), default="choose")
    parser.add_argument("--limit", type=int, help="use only this many texts of each set")
    args = parser.parse_args(arguments)
    model = AutoModelForSequenceClassification.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    sets = read_mixture(args.sets).sets
    temperature = read_checkpoint(args.model).temperature
    for line in lines(partial(classify, model, tokenizer), sets, args.part, temperature, args.limit):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
