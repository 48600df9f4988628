"""The training loop: batches, loss, schedule, averaged weights, checkpoints. Imports torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from model_store.artefact import digest
from model_store.augment import detokenise
from model_store.calibration import Labels, Scores, log_loss
from model_store.corpus import Row, Split
from model_store.recipe import Recipe, epoch_rows

Batch = list[tuple[list[int], float]]  # token ids and target of each row


class Trainer:
    """One training run. `steps()` trains; `save` and `restore` let it continue exactly where it stopped."""

    def __init__(self, start: Path, recipe: Recipe, split: Split, teachers: Sequence[Path] = ()) -> None:
        """Load the converted base from `start`, and the finished runs to distil from.

        All randomness comes from the recipe's seed. Raises ValueError if a teacher has another tokenizer.
        """
        self.recipe = recipe
        self.teacher_digests = [digest(teacher / "model.safetensors").sha256 for teacher in teachers]
        self._teachers = [_teacher(path, start) for path in teachers]
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(start)
        self.history: list[dict[str, float]] = []
        self._split = split
        self._tokenizer: Any = AutoTokenizer.from_pretrained(start)
        self._step = 0
        self._loss_sum = 0.0
        self._average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self._optimiser = torch.optim.AdamW(_groups(self.model, recipe), fused=True)
        self.epochs = [self._batches(epoch) for epoch in range(recipe.epochs)]
        self.total_steps = sum(map(len, self.epochs))

    def steps(self) -> Iterator[int]:
        """Train, and yield the number of completed steps after each one."""
        bar = tqdm(total=self.total_steps, initial=self._step, unit="step", mininterval=_bar_interval())
        first = 0
        for epoch, batches in enumerate(self.epochs):
            for batch in batches[max(0, self._step - first) :]:
                loss = self.learn(batch)
                self._loss_sum += loss
                bar.set_postfix(loss=f"{loss:.3f}", epoch=epoch + 1, refresh=False)
                bar.update()
                if self._step == first + len(batches):
                    self._end_epoch(epoch, len(batches))
                yield self._step
            first += len(batches)
        bar.close()

    def use_average(self) -> None:
        """Put the averaged weights into the model."""
        if self.recipe.average_decay:
            self.model.load_state_dict(self._average)

    def held_out_scores(self, *, natural: bool = False) -> tuple[Scores, Labels]:
        """Logits (texts, 2) and labels of the held-out sentences, detokenised if `natural`."""
        texts, labels = held_out_texts(self._split.held_out, natural=natural)
        return classify(self.model, self._tokenizer, texts), labels

    def save(self, path: Path) -> None:
        """Write weights, average and optimiser state to one safetensors file, atomically."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self._average.items()}
        for number, parameter in enumerate(self.model.parameters()):
            for name, tensor in self._optimiser.state[parameter].items():
                tensors[f"optimiser/{number}/{name}"] = tensor
        state = {
            "recipe": asdict(self.recipe),
            "teachers": self.teacher_digests,
            "step": self._step,
            "loss_sum": self._loss_sum,
            "history": self.history,
        }
        new = path.with_suffix(".new")
        save_file(tensors, new, metadata={"state": json.dumps(state)})
        os.replace(new, path)

    def restore(self, path: Path) -> None:
        """Continue from a file of `save`. Raises ValueError if its recipe or its teachers differ."""
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            if (state["recipe"], state["teachers"]) != (asdict(self.recipe), self.teacher_digests):
                raise ValueError(f"{path} belongs to another recipe: remove it or use its options")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        self.model.load_state_dict(_below(tensors, "model/"))
        self._average = _below(tensors, "average/")
        for number, parameter in enumerate(self.model.parameters()):
            self._optimiser.state[parameter] = _below(tensors, f"optimiser/{number}/")
        self._step, self._loss_sum, self.history = state["step"], state["loss_sum"], state["history"]

    def learn(self, batch: Batch) -> float:
        """Train on one batch and return its loss."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self._step)  # dropout depends only on the step
        self.model.train()
        factor = _schedule(self._step, self.total_steps, self.recipe.warmup_share)
        for group in self._optimiser.param_groups:
            group["lr"] = group["top_rate"] * factor
        # With `consistency`, each row runs with two dropouts that should agree: R-Drop (Liang et al., 2021).
        ids, mask = _pad([row[0] for row in batch])
        copies = 2 if self.recipe.consistency else 1
        logits = _logits(self.model, ids.repeat(copies, 1), mask.repeat(copies, 1))
        loss = _loss(logits, self.targets(batch, ids, mask).repeat(copies))
        if self.recipe.consistency:
            loss = loss + self.recipe.consistency * difference(*logits.chunk(2))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._step += 1
        self._update_average()
        return float(loss.detach())

    @torch.no_grad()
    def targets(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        """The target probability of label 1, shape (rows,): the smoothed label, mixed with the teachers'."""
        smoothing = self.recipe.label_smoothing
        labels = torch.tensor([row[1] for row in batch]) * (1 - smoothing) + smoothing / 2
        if not self._teachers:
            return labels
        predicted = [_logits(teacher, ids, mask).softmax(dim=1)[:, 1] for teacher in self._teachers]
        return labels.lerp(torch.stack(predicted).mean(dim=0), self.recipe.teacher_share)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average_decay, self._step / (self._step + 10))
        live = self.model.state_dict()
        torch._foreach_lerp_([self._average[name] for name in live], list(live.values()), 1 - decay)

    def _end_epoch(self, epoch: int, batches: int) -> None:
        result = {"epoch": epoch + 1, "train_loss": self._loss_sum / batches}
        live = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        result |= self._held_out("last")
        self.use_average()
        result |= self._held_out("average")
        self.model.load_state_dict(live)
        self._loss_sum = 0.0
        self.history.append(result)
        tqdm.write(json.dumps({name: round(value, 4) for name, value in result.items()}), file=sys.stderr)

    def _held_out(self, weights: str) -> dict[str, float]:
        result = {}
        for case, natural in (("tokenised", False), ("natural", True)):
            scores, labels = self.held_out_scores(natural=natural)
            result[f"{case}_{weights}_accuracy"] = float((scores.argmax(axis=1) == labels).mean())
            result[f"{case}_{weights}_loss"] = log_loss(scores, labels)
        return result

    def _batches(self, epoch: int) -> list[Batch]:
        rows = epoch_rows(self._split, self.recipe, epoch)
        ids = _encode(self._tokenizer, [row.text for row in rows], self.recipe.max_tokens)
        return bucket(list(zip(ids, (row.positive for row in rows), strict=True)), self.recipe, epoch)


def held_out_texts(rows: Sequence[Row], *, natural: bool) -> tuple[list[str], Labels]:
    """Texts and labels of `rows`, the texts detokenised if `natural`."""
    texts = [detokenise(row.text) if natural else row.text for row in rows]
    return texts, np.array([int(row.positive) for row in rows], dtype=np.int64)


def bucket(rows: Batch, recipe: Recipe, epoch: int) -> list[Batch]:
    """Divide rows into batches of similar length, in random order."""
    rng = Random(f"{recipe.seed}/{epoch}/batches")
    ordered = sorted(rows, key=lambda row: (len(row[0]), rng.random()))
    batches: list[Batch] = [[]]
    for row in ordered:
        if len(batches[-1]) >= min(recipe.batch_rows, max(1, recipe.batch_tokens // len(row[0]))):
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


@torch.no_grad()
def classify(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int = 512) -> Scores:
    """Logits of shape (texts, labels), in the order of `texts`."""
    model.eval()
    ids = _encode(tokenizer, texts, max_tokens)
    order = sorted(range(len(texts)), key=lambda number: len(ids[number]))
    logits = torch.zeros(len(texts), model.config.num_labels)
    for first in range(0, len(order), 32):
        chosen = order[first : first + 32]
        padded, mask = _pad([ids[number] for number in chosen])
        logits[chosen] = model(input_ids=padded, attention_mask=mask).logits
    return np.asarray(logits.numpy(), dtype=np.float64)


def _groups(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups: the learning rate is multiplied by `layer_decay` per layer towards the embeddings."""
    layers = model.config.n_layers
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        depth = 0
        if name.startswith("distilbert.embeddings."):
            depth = layers + 1
        elif name.startswith("distilbert.transformer.layer."):
            depth = layers - int(name.split(".")[3])
        decays = parameter.ndim > 1
        rate = recipe.learning_rate * recipe.layer_decay**depth
        new = {"params": [], "top_rate": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        groups.setdefault((depth, decays), new)["params"].append(parameter)
    return list(groups.values())


def _schedule(step: int, total: int, warmup_share: float) -> float:
    """Linear warm-up to 1, then linear decay to 0."""
    warmup = max(1, int(total * warmup_share))
    return (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)


def _teacher(path: Path, start: Path) -> Any:
    """Load a finished run as a teacher. Raises ValueError if its tokenizer is not that of `start`."""
    if (path / "tokenizer.json").read_bytes() != (start / "tokenizer.json").read_bytes():
        raise ValueError(f"{path} has another tokenizer.json than {start}")
    return AutoModelForSequenceClassification.from_pretrained(path).eval()


def _logits(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of shape (rows, labels) in f32, computed in bf16 where that is safe."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits.float()


def _loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy against soft targets: `positive` is the target probability of label 1, shape (rows,)."""
    targets = torch.stack((1 - positive, positive), dim=1)
    return torch.nn.functional.cross_entropy(logits, targets)


def difference(one: Tensor, other: Tensor) -> Tensor:
    """The mean of both Kullback-Leibler divergences between the labels' probabilities, averaged over rows."""
    one, other = one.log_softmax(dim=1), other.log_softmax(dim=1)
    return ((one.exp() - other.exp()) * (one - other)).sum(dim=1).mean() / 2


def _encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    return ids


def _pad(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return padded, mask


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _bar_interval() -> float:
    return 0.2 if sys.stderr.isatty() else 15.0
