"""Measures the texts that a classifier is evaluated on, and leaves what it saw in the artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model_store.artefact import MANIFEST, digest, read_manifest, write_manifest
from model_store.classifier import Classifier, ModelInfo, Tokens
from model_store.drift_reference import REFERENCE, DriftReference, build_reference, encode_reference, measure
from model_store.errors import ModelError


class Measuring:
    """A classifier that remembers the features of each text it was given."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._measured: list[tuple[float, ...]] = []

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._classifier.info

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """As the classifier does."""
        return self._classifier.tokenize(texts)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """As the classifier does; remembers what came and what went."""
        rows = self._classifier.classify(batch)
        for tokens, scores in zip(batch, rows, strict=True):
            self._measured.append(measure(tokens, scores, multi_label=self.info.multi_label))
        return rows

    def close(self) -> None:
        """As the classifier does."""
        self._classifier.close()

    def reference(self) -> DriftReference:
        """The reference of all texts so far. Raises ModelError for too few."""
        try:
            return build_reference(self.info.revision, len(self.info.labels), self._measured)
        except ValueError as error:
            raise ModelError(f"{error}.") from error


def write_reference(reference: DriftReference, directory: Path) -> Path:
    """Write it into an artefact, whose manifest then pins it, or beside a checkpoint for `build`."""
    path = directory / REFERENCE
    path.write_text(encode_reference(reference), "utf-8")
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        files = {**manifest.files, REFERENCE: digest(path)}
        write_manifest(directory, replace(manifest, files=dict(sorted(files.items()))))
    return path
