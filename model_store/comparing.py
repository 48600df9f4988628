"""Measures models on a file of labelled texts, and compares two of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model_store.checkpoint import CONFIG, read_checkpoint
from model_store.classifier import Classifier
from model_store.errors import ModelError
from model_store.evaluate import Evaluation, evaluate, expected_labels, one_hot, read_tsv
from model_store.figures import mcnemar
from model_store.prepare import locate
from model_store.training.table import Columns, read_table


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file of labelled texts. Without columns, it is a TSV of text and label below any header."""

    path: Path
    columns: Columns | None = None


def measure(classifier: Classifier, data: Labelled, args: Namespace) -> Evaluation:
    """Classify the texts of a file with the model that `args` name. Raises ModelError."""
    labels = classifier.info.labels
    if data.columns is None:
        read = read_tsv(data.path, labels)
        texts, expected = [row.text for row in read], one_hot([row.label for row in read], len(labels))
    else:
        if data.columns.separator and not classifier.info.multi_label:
            raise ModelError(f"{args.model} gives each text one label: leave out --separator.")
        rows = read_table(data.path, columns=data.columns).rows
        texts, expected = [row.text for row in rows], expected_labels(rows, classifier.info, data.path)
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
