"""A classifier: lays a batch out in rows, runs them on an engine, and checks that it has computed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from model_store.classifier import ModelInfo, Tokens
from model_store.errors import NotComputed
from model_store.rows import Floats, Runner, arrange, scores
from model_store.windows import Windows, classify_long

if TYPE_CHECKING:
    from model_store.artefact import Manifest
    from model_store.probes import Probes
    from model_store.tokenizer import Tokenizer


class RowClassifier:
    """A classifier that runs `runner` on the rows of a batch, and divides logits by `temperature`."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        runner: Runner,
        probes: Probes,
        manifest: Manifest,
    ) -> None:
        """`text_windows` is what the model's config asks for: see `read_in`."""
        self.info = info
        self.text_windows = manifest.text_windows
        self.probes = probes
        self._tokenizer = tokenizer
        self._runner: Runner | None = runner
        self._temperature, self._unnumbered = manifest.temperature, manifest.unnumbered

    def read_in(self, windows: Windows, *, evaluated: bool = False) -> None:
        """Read long texts in windows from now on. Drift is measured only if the model was `evaluated` so."""
        reference = self.info.reference if evaluated else None
        self.info = self.info.under(f"windows {windows}", windows=windows, reference=reference)
        self._tokenizer.read_in(windows)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, in windows or truncated to `info.max_tokens`. Releases the GIL."""
        return self._tokenizer(texts)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Scores of shape (len(batch), len(info.labels)), in order. Raises ValueError after `close`."""
        if self._runner is None:
            raise ValueError("the classifier is closed")
        if not batch:
            return []
        windows, multi_label = self.info.windows, self.info.multi_label
        if windows is not None and any(text.windows for text in batch):
            return classify_long(batch, windows, self.classify, multi_label=multi_label)
        logits = self._logits(batch)
        if windows is not None and any(text.part for text in batch):
            logits = logits / np.array([[windows.temperature if text.part else 1.0] for text in batch])
        return scores(logits, temperature=self._temperature, multi_label=multi_label)

    def _logits(self, batch: Sequence[Tokens]) -> Floats:
        """Finite logits (texts, labels). Raises NotComputed if the engine has returned something else."""
        assert self._runner is not None
        info = self.info
        rows = arrange(batch, info.layout, most=info.max_tokens, unnumbered=self._unnumbered)
        logits = self._runner.run(rows)[: len(batch)]
        if logits.shape != (len(batch), len(info.labels)) or not np.isfinite(logits).all():
            raise NotComputed(f"the engine did not compute finite scores for each of {len(batch)} texts")
        return logits

    def close(self) -> None:
        """Free what the engine holds. Idempotent."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
