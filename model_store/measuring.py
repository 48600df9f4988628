"""Measures the texts on which a classifier is evaluated, and stores their distribution in the artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model_store.artefact import MANIFEST, digest, read_manifest, write_manifest
from model_store.classifier import Classifier, ModelInfo
from model_store.drift_reference import REFERENCE, DriftReference, build_reference, encode_reference, measure
from model_store.errors import ModelError
from model_store.tokens import Tokens


class Measuring:
    """A classifier that records the features of each text it classifies, except for texts in windows.

    A worker leaves these out of drift, too: it sees their windows one by one.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._measured: list[tuple[float, ...]] = []

    @property
    def info(self) -> ModelInfo:
        return self._classifier.info

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return self._classifier.tokenize(texts)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        rows = self._classifier.classify(batch)
        for tokens, scores in zip(batch, rows, strict=True):
            if not tokens.windows:
                self._measured.append(measure(tokens, scores, multi_label=self.info.multi_label))
        return rows

    def close(self) -> None:
        self._classifier.close()

    def reference(self) -> DriftReference:
        """The reference of all texts so far. Raises ModelError if there are too few."""
        try:
            return build_reference(self.info.revision, len(self.info.labels), self._measured)
        except ValueError as error:
            raise ModelError(f"{error}.") from error


def write_reference(reference: DriftReference, directory: Path) -> Path:
    """Write a reference into an artefact and its manifest, or into a checkpoint, where `build` finds it."""
    path = directory / REFERENCE
    path.write_text(encode_reference(reference), "utf-8")
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        files = {**manifest.files, REFERENCE: digest(path)}
        write_manifest(directory, replace(manifest, files=dict(sorted(files.items()))))
    return path
