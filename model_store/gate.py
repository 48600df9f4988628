"""The accuracy gate: a built model must answer as its checkpoint does in torch f32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from model_store.artefact import Gate, Manifest
from model_store.build import build
from model_store.checkpoint import Checkpoint
from model_store.classifier import Precision
from model_store.engines.runner import open_artefact
from model_store.errors import ModelError
from model_store.evaluate import classify_all, read_tsv

# Share of texts that must keep their label, and how much accuracy may be lost.
MIN_AGREEMENT: dict[Precision, float] = {"f32": 0.999, "bf16": 0.995, "int8": 0.99}
MAX_ACCURACY_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class AccuracyCheck:
    """Judges an artefact on a file of labelled texts; `build` calls it before it publishes."""

    data: Path

    def __call__(self, path: Path, manifest: Manifest, checkpoint: Checkpoint) -> Gate:
        """Compare the artefact at `path` with `checkpoint` in torch f32. Raises ModelError."""
        if manifest.multi_label:
            raise ModelError(f"{manifest.name} gives any number of labels to a text; the check knows one.")
        rows = read_tsv(self.data, manifest.labels)
        texts = [row.text for row in rows]
        expected = np.array([row.label for row in rows])
        with TemporaryDirectory() as scratch:
            reference = Path(scratch) / "reference"
            build(checkpoint.path, reference, name=manifest.name, engine="torch", precision="f32")
            wanted = _labels(reference, texts, "torch f32")
        got = _labels(path, texts, f"{manifest.engine} {manifest.precision}")
        agreement = float((got == wanted).mean())
        accuracy, reference_accuracy = float((got == expected).mean()), float((wanted == expected).mean())
        return Gate(
            rows=len(rows),
            agreement=agreement,
            accuracy=accuracy,
            reference_accuracy=reference_accuracy,
            passed=agreement >= MIN_AGREEMENT[manifest.precision]
            and accuracy >= reference_accuracy - MAX_ACCURACY_LOSS,
        )


def _labels(path: Path, texts: list[str], title: str) -> NDArray[np.int64]:
    classifier = open_artefact(path)
    try:
        scores, _ = classify_all(classifier, texts, title=title)
    finally:
        classifier.close()
    labels: NDArray[np.int64] = scores.argmax(axis=1)
    return labels
