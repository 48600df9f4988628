"""The accuracy gate on labelled texts: a built model must agree with its checkpoint in torch f32.

The gate on the sealed probes, which needs no labelled texts, is in `model_store.probing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from model_store.artefact import Gate, Manifest, verify
from model_store.build import build
from model_store.checkpoint import Checkpoint
from model_store.classifier import Arithmetic, Precision
from model_store.engines.runner import open_verified
from model_store.errors import ModelError
from model_store.evaluate import classify_all, read_tsv
from model_store.rows import RowClassifier

# Minimum share of texts that keep their label, and maximum loss of accuracy.
MIN_AGREEMENT: dict[Precision, float] = {"f32": 0.999, "bf16": 0.995, "int8": 0.99}
MAX_ACCURACY_LOSS = 0.005

Labels = NDArray[np.int64]


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
    classifier = open_verified(path, verify(path), arithmetic=arithmetic)
    try:
        return [way(classifier, texts) for way in ways]
    finally:
        classifier.close()


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
