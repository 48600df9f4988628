"""Evaluates models on labelled texts: accuracy, F1, calibration and speed.

Also compares two of them, says what they would do as a cascade, by the threshold of the first one, and has
the gate of a build: a built model must agree with its checkpoint in torch f32. The gate on the sealed probes,
which needs no labelled texts, is in `model_store.probing`.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_store.artefact import Gate, Manifest, verify
from model_store.build import build
from model_store.checkpoint import CONFIG, Checkpoint, read_checkpoint
from model_store.classifier import Arithmetic, Classifier, ModelInfo, Precision
from model_store.engines.runner import open_verified
from model_store.errors import ModelError
from model_store.figures import Chosen, Figures, Labels, choose, figures, label_matrix, mcnemar, right_texts
from model_store.prepare import locate
from model_store.rows import RowClassifier, share_out
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
        for row, (label,) in islice(TextFile(path, hints).beside("2"), 1, None):
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
    every_s = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(total=len(texts), desc=title, unit="text", disable=title is None, mininterval=every_s) as bar:
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


THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True, slots=True)
class Step:
    """A cascade with one threshold: its accuracy, the share passed on, and the texts/s of both together."""

    threshold: float
    accuracy: float
    passed: float
    texts_per_s: float


def steps(fast: Evaluation, sure: Evaluation) -> Sequence[Step]:
    """One for each threshold at which the fast model is not sure of some texts."""
    found = []
    for threshold in THRESHOLDS:
        passed = fast.best < threshold
        if passed.any():
            accuracy = float(np.where(passed, sure.right, fast.right).mean())
            share = float(passed.mean())
            seconds = 1 / fast.texts_per_s + share / sure.texts_per_s
            found.append(Step(threshold, accuracy, share, 1 / seconds))
    return found


def recommended(found: Sequence[Step], least: float) -> Step | None:
    """The smallest threshold from which on the accuracy is at least this; None if there is none."""
    best = None
    for step in reversed(found):
        if step.accuracy < least:
            break
        best = step
    return best


def report_cascade(fast: Evaluation, sure: Evaluation, within: float) -> Iterator[str]:
    """The figures as lines of text. Raises ModelError if the models cannot be members of a cascade."""
    labels, others = fast.info.labels, sure.info.labels
    if set(labels) != set(others):
        raise ModelError(
            f"The members of a cascade must have the same labels; {fast.info.name} has {', '.join(labels)}, "
            f"{sure.info.name} {', '.join(others)}."
        )
    if fast.info.multi_label or sure.info.multi_label:
        raise ModelError("The members of a cascade must give each text one label.")
    low, high = sure.figures.interval_95
    yield f"passed on to {sure.info.name}, of {sure.texts_per_s:.0f} texts/s"
    yield "threshold  accuracy  passed on  texts/s"
    found = steps(fast, sure)
    for step in found:
        yield f"{step.threshold:<9g}  {step.accuracy:.4f}    {step.passed:7.1%}    {step.texts_per_s:7.0f}"
    yield f"{sure.info.name} alone  {sure.figures.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
    yield _advice(fast, sure, recommended(found, sure.figures.accuracy - within), within)


def _advice(fast: Evaluation, sure: Evaluation, step: Step | None, within: float) -> str:
    name, larger = fast.info.name, sure.info.name
    if fast.figures.accuracy >= sure.figures.accuracy - within:
        return f"A cascade does not pay: {name} alone is within {within:g} of the accuracy of {larger}."
    if step is None:
        return f"A cascade does not pay: at no threshold is it within {within:g} of the accuracy of {larger}."
    if step.texts_per_s <= sure.texts_per_s:
        return f"A cascade does not pay: at {step.threshold:g} it is not faster than {larger} alone."
    return (
        f"threshold {step.threshold:g} is the smallest from which on a cascade is within {within:g} of the "
        f"accuracy of {larger}, at {step.texts_per_s / sure.texts_per_s:.1f} times its speed"
    )


# Minimum share of texts that keep their label, and maximum loss of accuracy.
MIN_AGREEMENT: dict[Precision, float] = {"f32": 0.999, "bf16": 0.995, "int8": 0.99}
MAX_ACCURACY_LOSS = 0.005


def check_accuracy(
    data: Path, arithmetic: Arithmetic, path: Path, manifest: Manifest, checkpoint: Checkpoint
) -> Gate:
    """Compare the artefact at `path` with `checkpoint` in torch f32, on a file of labelled texts.

    `build` calls it before it publishes the artefact. Raises ModelError.
    """
    if manifest.multi_label:
        raise ModelError(f"{manifest.name} is a multi-label model, which the check does not support.")
    rows = read_tsv(data, manifest.labels)
    texts = [row.text for row in rows]
    expected = np.array([manifest.labels.index(row.labels[0]) for row in rows])
    with TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference"
        build(checkpoint.path, reference, name=manifest.name, engine="torch")
        (wanted,) = _labels(reference, "f32", texts, [_batched])
    precision: Precision = "int8" if manifest.weights == "int8" else arithmetic
    alone, batched = _labels(path, arithmetic, texts, [_alone, _batched])
    agreement = min(_share(alone, wanted), _share(batched, wanted))
    accuracy = min(_share(alone, expected), _share(batched, expected))
    same_alone = _share(alone, batched)
    return Gate(
        rows=len(rows),
        agreement=agreement,
        accuracy=accuracy,
        reference_accuracy=_share(wanted, expected),
        same_alone=same_alone,
        passed=min(agreement, same_alone) >= MIN_AGREEMENT[precision]
        and accuracy >= _share(wanted, expected) - MAX_ACCURACY_LOSS,
    )


def _labels(
    path: Path, arithmetic: Arithmetic, texts: list[str], ways: Sequence[Callable[..., Labels]]
) -> list[Labels]:
    """Labels that the artefact at `path` gives to all texts, for each of several ways to run them."""
    with closing(open_verified(path, verify(path), arithmetic=arithmetic)) as classifier:
        return [way(classifier, texts) for way in ways]


def _alone(classifier: RowClassifier, texts: list[str]) -> Labels:
    scores = [classifier.classify([tokens])[0] for tokens in classifier.tokenize(texts)]
    labels: Labels = np.array(scores).argmax(axis=1)
    return labels


def _batched(classifier: RowClassifier, texts: list[str]) -> Labels:
    info = classifier.info
    scores, _ = classify_all(classifier, texts, title=f"{info.engine} {info.precision}")
    labels: Labels = scores.argmax(axis=1)
    return labels


def _share(one: Labels, other: Labels) -> float:
    return float((one == other).mean())
