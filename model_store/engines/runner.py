"""The parts that all engines share: tokenising, laying out texts in rows, and reading scores from logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from model_store.artefact import TOKENIZER, Manifest, verify
from model_store.classifier import Arithmetic, Layout, ModelInfo, Tokens
from model_store.drift_reference import read_reference
from model_store.errors import EngineUnavailable
from model_store.hardware import cores
from model_store.probes import read_probes
from model_store.proof import limits
from model_store.rows import Floats, Rows, arrange, scores
from model_store.tokenizer import Tokenizer


class Runner(Protocol):
    """A model on an engine, which maps arrays to logits."""

    def run(self, rows: Rows) -> Floats:
        """Returns logits of shape (at least the number of texts, labels)."""

    def close(self) -> None:
        """Free what the engine holds."""


LayoutChoice = Literal["auto", "packed", "padded"]


def open_artefact(
    path: Path, *, arithmetic: Arithmetic, layout: LayoutChoice = "auto", threads: int = 0
) -> RowClassifier:
    """Verify the artefact at `path` and load it into its engine, without a proof. Raises ModelError."""
    return open_verified(path, verify(path), arithmetic=arithmetic, layout=layout, threads=threads)


def open_verified(
    path: Path, manifest: Manifest, *, arithmetic: Arithmetic, layout: LayoutChoice, threads: int
) -> RowClassifier:
    """Load an artefact that `verify` has already checked."""
    if layout == "packed" and not manifest.rows:
        raise EngineUnavailable(
            f"{manifest.name} cannot be packed: its architecture supports only padded rows."
        )
    if layout == "auto":
        layout = "packed" if manifest.rows else "padded"
    runner = make_runner(path, manifest, threads or cores(), arithmetic)
    return RowClassifier(path, manifest, layout, arithmetic, runner)


def make_runner(path: Path, manifest: Manifest, threads: int, arithmetic: Arithmetic) -> Runner:
    """Open an artefact in its engine. Raises EngineUnavailable if the engine is not installed."""
    try:
        if manifest.engine == "openvino":
            from model_store.engines.openvino_ir import OpenVinoRunner

            return OpenVinoRunner(path, manifest, threads=threads, arithmetic=arithmetic)
        from model_store.engines.pytorch import TorchRunner

        return TorchRunner(path, manifest, threads=threads, arithmetic=arithmetic)
    except ImportError as error:
        raise EngineUnavailable(f"{path} needs {error.name}, which is not installed.") from error


class RowClassifier:
    """A classifier that runs a verified artefact on its engine."""

    def __init__(
        self, artefact: Path, manifest: Manifest, layout: Layout, arithmetic: Arithmetic, runner: Runner
    ) -> None:
        self.probes = read_probes(artefact)
        self.info = ModelInfo(
            name=manifest.name,
            revision=manifest.revision,
            labels=manifest.labels,
            max_tokens=manifest.max_tokens,
            multi_label=manifest.multi_label,
            engine=manifest.engine,
            precision="int8" if manifest.weights == "int8" else arithmetic,
            layout=layout,
            parameters=manifest.parameters,
            tolerance=limits(manifest.weights, arithmetic, self.probes.rounding).company,
            identity=manifest.identity,
            arithmetic=arithmetic,
            reference=read_reference(artefact),
        )
        self._temperature = manifest.temperature
        self._tokenizer = Tokenizer(artefact / TOKENIZER, manifest.max_tokens)
        self._runner: Runner | None = runner

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, truncated to `info.max_tokens`. Releases the GIL."""
        return self._tokenizer(texts)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Scores of shape (len(batch), len(info.labels)), in order. Raises ValueError after `close`."""
        if self._runner is None:
            raise ValueError("the classifier is closed")
        if not batch:
            return []
        logits = self._runner.run(arrange(batch, self.info.layout))[: len(batch)]
        return scores(logits, temperature=self._temperature, multi_label=self.info.multi_label)

    def close(self) -> None:
        """Free what the engine holds. Idempotent."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
