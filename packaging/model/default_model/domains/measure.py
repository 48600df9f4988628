"""Measures a model on the held-out parts: `python -m default_model.domains.measure --model DIR --sets DIR`.

Texts are read by the engine, and in the windows, that a worker would use. Compare recipes on the part
`choose`, and look at `last` once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from default_model.calibration import expected_calibration_error
from default_model.corpus import Row
from default_model.domains.mixing import has_negation
from default_model.domains.sets import LabelledSet, read_mixture
from model_store import load
from model_store.classifier import Classifier
from model_store.evaluate import classify_all
from model_store.figures import Labels, Scores


def lines(
    classifier: Classifier, sets: Sequence[LabelledSet], part: str, limit: int | None = None
) -> Iterator[str]:
    """One line per set: texts, accuracy, calibration error; for neutral texts, the share of sure answers.

    The last line is of the short texts of all sets that have a negation.
    """
    negations: list[tuple[Scores, Labels]] = []
    for one in sets:
        rows: Sequence[Row] = getattr(one, part)[:limit]
        scores, _ = classify_all(classifier, [row.text for row in rows])
        if all(row.positive == 0.5 for row in rows):
            sure = (scores.max(axis=1) > 0.9).mean()
            yield f"{one.name:24} {len(rows):5} above 0.9: {sure:.1%}"
            continue
        labels = np.array([int(row.positive) for row in rows], dtype=np.int64)
        chosen = np.array([has_negation(row.text) for row in rows])
        negations.append((scores[chosen], labels[chosen]))
        yield line(one.name, scores, labels)
    found, right = (np.concatenate(column) for column in zip(*negations, strict=True))
    if len(right):
        yield line("with a negation", found, right)


def line(name: str, scores: Scores, labels: Labels) -> str:
    """Texts, accuracy of all and of each label, and calibration error of scores of shape (texts, 2)."""
    right = scores.argmax(axis=1) == labels
    error = expected_calibration_error(scores, labels)
    sides = ", ".join(f"{right[labels == side].mean():.1%}" for side in np.unique(labels))
    return f"{name:24} {len(labels):5} {right.mean():.1%} ({sides}), ECE {error:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print the figures. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.domains.measure", description=__doc__)
    parser.add_argument(
        "--model", default="default", help="directory of the model (default: the embedded one)"
    )
    parser.add_argument("--sets", type=Path, required=True, help="folder of the sets, as NAME.tsv")
    part = "part of each set to measure on (default: choose)"
    parser.add_argument("--part", choices=("choose", "last"), default="choose", help=part)
    parser.add_argument("--limit", type=int, help="use only this many texts of each set")
    parser.add_argument("--windows", default="", help="text windows instead of the model's: 126:31:mean, off")
    parser.add_argument("--precision", choices=("auto", "f32", "bf16", "int8"), default="auto")
    parser.add_argument("--names", nargs="*", help="measure on these sets only")
    args = parser.parse_args(arguments)
    classifier = load(args.model, precision=args.precision, text_windows=args.windows)
    sets = [one for one in read_mixture(args.sets).sets if not args.names or one.name in args.names]
    for text in lines(classifier, sets, args.part, args.limit):
        sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
