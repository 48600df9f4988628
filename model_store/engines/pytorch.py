"""The torch engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification

from model_store.checkpoint import read_checkpoint
from model_store.classifier import ModelInfo, Precision, Tokens
from model_store.tokenizer import Tokenizer


class TorchClassifier:
    """Runs a Hugging Face directory, padded to the longest text of a pass."""

    def __init__(self, path: Path, *, name: str, revision: str, precision: Precision, threads: int) -> None:
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(path)
        self._checkpoint = checkpoint
        self._model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, use_safetensors=True
        ).eval()
        self._tokenizer = Tokenizer(path / "tokenizer.json", checkpoint.max_tokens)
        self.info = ModelInfo(
            name=name,
            revision=revision,
            labels=checkpoint.labels,
            max_tokens=checkpoint.max_tokens,
            multi_label=checkpoint.multi_label,
            engine="torch",
            precision=precision,
            layout="padded",
            parameters=sum(parameter.numel() for parameter in self._model.parameters()),
            tolerance=0.02 if precision == "bf16" else 1e-5,
        )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return self._tokenizer(texts)

    @torch.inference_mode()
    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        if not batch:
            return []
        ids = pad_sequence([torch.tensor(tokens.ids) for tokens in batch], batch_first=True)
        mask = pad_sequence([torch.ones(len(tokens), dtype=torch.long) for tokens in batch], batch_first=True)
        logits = self._model(input_ids=ids, attention_mask=mask).logits.float() / self._checkpoint.temperature
        scores = logits.sigmoid() if self._checkpoint.multi_label else logits.softmax(-1)
        result: list[list[float]] = scores.tolist()
        return result

    def close(self) -> None:
        """Nothing is held beyond the object."""
