"""Evaluates models on labelled texts, accuracy, F1, calibration and speed, and compares two of them."""

from __future__ import annotations

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_store.checkpoint import CONFIG, read_checkpoint
from model_store.classifier import Classifier, ModelInfo
from model_store.errors import ModelError
from model_store.figures import Chosen, Figures, choose, figures, label_matrix, mcnemar, right_texts
from model_store.prepare import locate
from model_store.rows import share_out
from model_store.training.table import LabelledRow, read_table
from text_files.errors import FileError
from text_files.formats import Hints
from text_files.source import TextFile

# Number of texts that are tokenised and laid out together.
_SLICE = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a model on one file. `right`, and `best`, the best score of each, have shape (texts,)."""

    info: ModelInfo
    figures: Figures
    truncated: int
    texts_per_s: float
    right: Chosen
    best: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("name", "revision", "engine", "precision")
        model = {{"name": "model"}.get(name, name): getattr(self.info, name) for name in names}
        speed = {"truncated": self.truncated, "texts_per_s": self.texts_per_s}
        return model | asdict(self.figures) | speed

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        info, (accuracy, *rest) = self.info, self.figures.lines()
        return [
            f"{info.name} {info.revision[:12]}, {info.engine} {info.precision}, {self.figures.texts} texts",
            accuracy,
            *rest[:2],
            f"speed              {self.texts_per_s:.0f} texts/s; {self.truncated} texts truncated",
            *rest[2:],
        ]


def read_tsv(path: Path, labels: Sequence[str]) -> list[LabelledRow]:
    """Read `text<TAB>label` lines below a header; a label is an index or one of `labels`.

    Raises ModelError naming the line that does not fit.
    """
    hints = Hints("1", "tsv", header=False, quotes=False, also=("2",))
    by_name = {str(index): name for index, name in enumerate(labels)} | {name: name for name in labels}
    rows = []
    try:
        for row, label in islice(TextFile(path, hints).labelled("2"), 1, None):
            if label not in by_name:
                where = f"{path}, line {row.number}"
                raise ModelError(f"{where}: expected text<TAB>label, label one of {labels}.")
            rows.append(LabelledRow(row.text, (by_name[str(label)],)))
    except FileError as error:
        raise ModelError(str(error)) from None
    if not rows:
        raise ModelError(f"{path} contains no labelled text below its header.")
    return rows


def classify_all(
    classifier: Classifier, texts: Sequence[str], *, title: str | None = None
) -> tuple[NDArray[np.float64], int]:
    """Scores (texts, labels) in order, and the number of truncated texts. A `title` shows a progress bar."""
    result = np.zeros((len(texts), len(classifier.info.labels)))
    truncated = 0
    with tqdm(total=len(texts), desc=title, unit="text", disable=title is None) as bar:
        for start in range(0, len(texts), _SLICE):
            tokens = classifier.tokenize(texts[start : start + _SLICE])
            truncated += sum(one.truncated > 0 for one in tokens)
            for indices in share_out(list(map(len, tokens)), classifier.info.layout):
                scores = classifier.classify([tokens[index] for index in indices])
                result[[start + index for index in indices]] = scores
                bar.update(len(indices))
    return result, truncated


def expected_labels(rows: Sequence[LabelledRow], info: ModelInfo, path: Path) -> Chosen:
    """Which labels each text has, shape (texts, labels). Raises ModelError if a label is not the model's."""
    labels = info.labels
    allowed = set(labels)
    if unknown := Counter(label for row in rows for label in row.labels if label not in allowed):
        label, count = unknown.most_common(1)[0]
        known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
        raise ModelError(f"{path} has the label {label!r} ({count} texts); those of {info.name} are {known}.")
    return label_matrix([row.labels for row in rows], labels)


def evaluate(
    classifier: Classifier,
    texts: Sequence[str],
    expected: Chosen,
    *,
    thresholds: Sequence[float] | None = None,
    title: str | None = None,
) -> Evaluation:
    """Classify `texts` and compare with the expected labels (texts, labels).

    A multi-label model chooses labels by `thresholds`, or if there are none by 0.5.
    """
    info = classifier.info
    if info.multi_label and thresholds is None:
        thresholds = [0.5] * len(info.labels)
    start = time.perf_counter()
    scores, truncated = classify_all(classifier, texts, title=title)
    seconds = time.perf_counter() - start
    limits = thresholds if info.multi_label else None
    return Evaluation(
        info=info,
        figures=figures(info.labels, scores, expected, limits),
        truncated=truncated,
        texts_per_s=len(texts) / seconds,
        right=right_texts(choose(scores, limits), expected),
        best=scores.max(axis=1),
    )


def measure(classifier: Classifier, args: Namespace) -> Evaluation:
    """Classify the texts of the file in `args` with the model that they name. Raises ModelError.

    Without columns, the file is a TSV of text and label below any header.
    """
    if args.columns is None:
        rows = read_tsv(args.data, classifier.info.labels)
    else:
        if args.columns.separator and not classifier.info.multi_label:
            raise ModelError(f"{args.model} gives each text one label: leave out --separator.")
        rows = read_table(args.data, columns=args.columns).rows
    texts, expected = [row.text for row in rows], expected_labels(rows, classifier.info, args.data)
    thresholds = None
    directory = locate(args.model, args.artefact_dir.expanduser())[1]
    if classifier.info.multi_label and (directory / CONFIG).is_file():
        thresholds = read_checkpoint(directory).thresholds
    return evaluate(classifier, texts, expected, thresholds=thresholds, title="evaluate")


def compare(one: Evaluation, other: Evaluation) -> Iterator[str]:
    """The second model's accuracy, and whether the difference can be chance. Raises ModelError."""
    if len(one.right) != len(other.right):
        raise ModelError("The models were measured on different texts.")
    only_one, only_other, p_value = mcnemar(one.right, other.right)
    low, high = other.figures.interval_95
    accuracy = other.figures.accuracy
    yield f"against {other.info.name:<10} accuracy {accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
    verdict = "can be chance" if p_value > 0.05 else "is unlikely to be chance"
    yield (
        f"McNemar            right only here {only_one}, only there {only_other}, p = {p_value:.2g}: "
        f"the difference {verdict}"
    )
