"""The recipe of the embedded default on the training loop: soft targets, teachers, R-Drop. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from default_model.augment import detokenise
from default_model.corpus import Row, Split
from default_model.recipe import Recipe, epoch_rows
from model_store.artefact import digest
from model_store.figures import Labels, Scores, log_loss
from model_store.training.data import encode
from model_store.training.loop import Batch, Loop, autocast, bucket, pad, predict
from model_store.training.recipes import Options

# What the loop reads of a recipe.
_OPTIONS = ("seed", "learning_rate", "layer_decay", "warmup_share", "weight_decay", "average_decay")


class Trainer(Loop):
    """One training run; the target of a row is the probability that it is positive."""

    def __init__(self, start: Path, recipe: Recipe, split: Split, teachers: Sequence[Path] = ()) -> None:
        """Load the converted base from `start`, and the finished runs to distil from.

        All randomness comes from the recipe's seed. Raises ValueError if a teacher has another tokenizer.
        """
        self.recipe = recipe
        self.teacher_digests = [digest(teacher / "model.safetensors").sha256 for teacher in teachers]
        self._teachers = [_teacher(path, start) for path in teachers]
        self._split = split
        self._tokenizer: Any = AutoTokenizer.from_pretrained(start, local_files_only=True)
        super().__init__(
            AutoModelForSequenceClassification.from_pretrained(start, local_files_only=True),
            Options("full", **{name: getattr(recipe, name) for name in _OPTIONS}),
            [self._batches(epoch) for epoch in range(recipe.epochs)],
            {"recipe": asdict(recipe), "teachers": self.teacher_digests},
        )

    def held_out_scores(self, *, natural: bool = False) -> tuple[Scores, Labels]:
        """Logits (texts, 2) and labels of the held-out sentences, detokenised if `natural`."""
        texts, labels = held_out_texts(self._split.held_out, natural=natural)
        return self.classify(texts), labels

    def classify(self, texts: Sequence[str]) -> Scores:
        """Logits of shape (texts, 2)."""
        return classify(self.model, self._tokenizer, texts)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy; with `consistency`, two dropouts should agree (R-Drop, Liang et al. 2021)."""
        ids, mask = pad([row[0] for row in batch])
        copies = 2 if self.recipe.consistency else 1
        logits = logits_of(self.model, ids.repeat(copies, 1), mask.repeat(copies, 1))
        loss = cross_entropy(logits, self.targets(batch, ids, mask).repeat(copies))
        if self.recipe.consistency:
            loss = loss + self.recipe.consistency * difference(*logits.chunk(2))
        return loss

    @torch.no_grad()
    def targets(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        """The target probability of label 1, shape (rows,): the smoothed label, mixed with the teachers'."""
        smoothing = self.recipe.label_smoothing
        labels = torch.tensor([row[1] for row in batch]) * (1 - smoothing) + smoothing / 2
        if not self._teachers:
            return labels
        predicted = [logits_of(teacher, ids, mask).softmax(dim=1)[:, 1] for teacher in self._teachers]
        return labels.lerp(torch.stack(predicted).mean(dim=0), self.recipe.teacher_share)

    def measure(self) -> dict[str, float]:
        """Accuracy and loss on the held-out sentences, of the last and of the averaged weights."""
        result = self._held_out("last")
        self.use_average()
        return result | self._held_out("average")

    def _held_out(self, weights: str) -> dict[str, float]:
        result = {}
        for case, natural in (("tokenised", False), ("natural", True)):
            scores, labels = self.held_out_scores(natural=natural)
            result[f"{case}_{weights}_accuracy"] = float((scores.argmax(axis=1) == labels).mean())
            result[f"{case}_{weights}_loss"] = log_loss(scores, labels)
        return result

    def _batches(self, epoch: int) -> list[Batch]:
        rows = epoch_rows(self._split, self.recipe, epoch)
        ids = encode(self._tokenizer, [row.text for row in rows], self.recipe.max_tokens)
        return bucket(
            list(zip(ids, (row.positive for row in rows), strict=True)),
            most_rows=self.recipe.batch_rows,
            most_tokens=self.recipe.batch_tokens,
            rng=Random(f"{self.recipe.seed}/{epoch}/batches"),
        )


def held_out_texts(rows: Sequence[Row], *, natural: bool) -> tuple[list[str], Labels]:
    """Texts and labels of `rows`, the texts detokenised if `natural`."""
    texts = [detokenise(row.text) if natural else row.text for row in rows]
    return texts, np.array([int(row.positive) for row in rows], dtype=np.int64)


def classify(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int = 512) -> Scores:
    """Logits of shape (texts, labels), in the order of `texts`."""
    scores: Scores = predict(model, list(encode(tokenizer, texts, max_tokens)))
    return scores


def _teacher(path: Path, start: Path) -> Any:
    """Load a finished run as a teacher. Raises ValueError if its tokenizer is not that of `start`."""
    if (path / "tokenizer.json").read_bytes() != (start / "tokenizer.json").read_bytes():
        raise ValueError(f"{path} has another tokenizer.json than {start}")
    return AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True).eval()


def logits_of(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of shape (rows, labels) in f32, computed in bf16 where that is fast."""
    with autocast():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits.float()


def cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy against soft targets: `positive` is the target probability of label 1, shape (rows,)."""
    targets = torch.stack((1 - positive, positive), dim=1)
    return torch.nn.functional.cross_entropy(logits, targets)


def difference(one: Tensor, other: Tensor) -> Tensor:
    """The mean of both Kullback-Leibler divergences between the labels' probabilities, averaged over rows."""
    one, other = one.log_softmax(dim=1), other.log_softmax(dim=1)
    return ((one.exp() - other.exp()) * (one - other)).sum(dim=1).mean() / 2
