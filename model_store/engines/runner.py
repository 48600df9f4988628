"""What every engine shares: tokenizing, laying texts out in rows, and reading scores from logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from model_store.artefact import Manifest, verify
from model_store.classifier import Layout, ModelInfo, Tokens
from model_store.drift_reference import read_reference
from model_store.errors import EngineUnavailable
from model_store.hardware import cores
from model_store.rows import Floats, Rows, arrange, scores
from model_store.tokenizer import Tokenizer


class Runner(Protocol):
    """A model on an engine: arrays in, logits out."""

    def run(self, rows: Rows) -> Floats:
        """Logits of shape (at least the texts of the pass, labels)."""

    def close(self) -> None:
        """Free what the engine holds."""


LayoutChoice = Literal["auto", "packed", "padded"]


def open_artefact(path: Path, *, layout: LayoutChoice = "auto", threads: int = 0) -> RowClassifier:
    """Verify the artefact at `path` and load it into its engine. Raises ModelError."""
    manifest = verify(path)
    if layout == "packed" and not manifest.rows:
        raise EngineUnavailable(
            f"{manifest.name} cannot be packed: only padded rows are known for its structure."
        )
    if layout == "auto":
        layout = "packed" if manifest.rows else "padded"
    return RowClassifier(path, manifest, layout, _runner(path, manifest, threads or cores()))


def _runner(path: Path, manifest: Manifest, threads: int) -> Runner:
    try:
        if manifest.engine == "openvino":
            from model_store.engines.openvino_ir import OpenVinoRunner

            return OpenVinoRunner(path, manifest, threads=threads)
        from model_store.engines.pytorch import TorchRunner

        return TorchRunner(path, manifest, threads=threads)
    except ImportError as error:
        raise EngineUnavailable(f"{path} needs {error.name}, which is not installed.") from error


class RowClassifier:
    """The classifier over a verified artefact and the engine that runs it."""

    def __init__(self, artefact: Path, manifest: Manifest, layout: Layout, runner: Runner) -> None:
        self.info = ModelInfo(
            name=manifest.name,
            revision=manifest.revision,
            labels=manifest.labels,
            max_tokens=manifest.max_tokens,
            multi_label=manifest.multi_label,
            engine=manifest.engine,
            precision=manifest.precision,
            layout=layout,
            parameters=manifest.parameters,
            tolerance=manifest.tolerance,
            reference=read_reference(artefact),
        )
        self._temperature = manifest.temperature
        self._tokenizer = Tokenizer(artefact / "tokenizer.json", manifest.max_tokens)
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
