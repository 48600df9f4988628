"""Evaluates a model on labelled texts: accuracy, F1, calibration and speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from model_store.calibration import expected_calibration_error, wilson_interval
from model_store.classifier import Classifier
from model_store.errors import ModelError
from model_store.rows import share_out

# Number of texts that are tokenised and laid out together.
_SLICE = 256


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and the index of its label."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision, recall and F1 of one label, and its number of texts."""

    label: str
    texts: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures on one file. `f1` is the mean over labels; `calibration_error` is Guo et al.'s (2017)."""

    model: str
    revision: str
    engine: str
    precision: str
    texts: int
    accuracy: float
    interval_95: tuple[float, float]
    f1: float
    calibration_error: float
    truncated: int
    texts_per_s: float
    classes: tuple[ClassReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def read_tsv(path: Path, labels: Sequence[str]) -> list[LabelledText]:
    """Read `text<TAB>label` lines below a header; a label is an index or one of `labels`.

    Raises ModelError naming the line that does not fit.
    """
    by_name = {name: index for index, name in enumerate(labels)}
    by_name |= {str(index): index for index in range(len(labels))}
    try:
        lines = path.read_text("utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    rows = []
    for number, line in enumerate(lines, start=2):
        text, tab, label = line.rpartition("\t")
        if not tab or label not in by_name:
            raise ModelError(f"{path}, line {number}: expected text<TAB>label, label one of {labels}.")
        rows.append(LabelledText(text, by_name[label]))
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
            truncated += sum(one.truncated for one in tokens)
            for indices in share_out(list(map(len, tokens)), classifier.info.layout):
                scores = classifier.classify([tokens[index] for index in indices])
                result[[start + index for index in indices]] = scores
                bar.update(len(indices))
    return result, truncated


def evaluate(classifier: Classifier, rows: Sequence[LabelledText], *, title: str | None = None) -> Evaluation:
    """Classify `rows` and compare with their labels. Raises ModelError for a multi-label model."""
    info = classifier.info
    if info.multi_label:
        raise ModelError(f"{info.name} is a multi-label model, which evaluate does not support.")
    start = time.perf_counter()
    scores, truncated = classify_all(classifier, [row.text for row in rows], title=title)
    seconds = time.perf_counter() - start
    expected = np.array([row.label for row in rows], dtype=np.int64)
    predicted = scores.argmax(axis=1)
    right = int((predicted == expected).sum())
    classes = tuple(
        _class_report(label, predicted == index, expected == index) for index, label in enumerate(info.labels)
    )
    return Evaluation(
        model=info.name,
        revision=info.revision,
        engine=info.engine,
        precision=info.precision,
        texts=len(rows),
        accuracy=right / len(rows),
        interval_95=wilson_interval(right, len(rows)),
        f1=float(np.mean([report.f1 for report in classes])),
        calibration_error=expected_calibration_error(scores, expected),
        truncated=truncated,
        texts_per_s=len(rows) / seconds,
        classes=classes,
    )


def _class_report(label: str, called: NDArray[np.bool_], is_so: NDArray[np.bool_]) -> ClassReport:
    both = int((called & is_so).sum())
    precision, recall = _share(both, int(called.sum())), _share(both, int(is_so.sum()))
    f1 = _share(2 * precision * recall, precision + recall)
    return ClassReport(label, int(is_so.sum()), precision, recall, f1)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
