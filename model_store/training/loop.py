"""The loop of every recipe with batches: schedule, averaged weights, early stop, checkpoints.

Batches are token ids of similar length, padded to tensors.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from model_store.figures import Scores
from model_store.hardware import has_bf16
from model_store.training.recipes import Options

State = dict[str, Tensor]
# Token ids and the target of each row; what a target is, is up to the loss.
Batch = list[tuple[Sequence[int], Any]]
# Rows of a batch that is only read.
_ANSWERED_ROWS = 32


class Loop:
    """One run over `epochs` of batches. `steps()` trains; `save` and `restore` continue it exactly.

    Subclasses define `loss`, and `measure` for what is recorded after each epoch. If `measure` returns a
    `held_out_loss`, that of the averaged weights, the best epoch's average is kept, and the run ends after
    `patience` epochs without a better one. `identity` says what the run is made of, for `restore`.
    """

    patience = 1_000_000

    def __init__(
        self, model: Any, recipe: Options, epochs: Sequence[list[Batch]], identity: dict[str, Any]
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.total_steps = sum(map(len, epochs))
        self.history: list[dict[str, float]] = []
        self._recipe, self._identity = recipe, identity
        self._step, self._loss_sum = 0, 0.0
        self.average = _copy(model)
        self._best: State = {}
        self._optimiser = torch.optim.AdamW(groups(model, recipe), fused=True)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one batch, a scalar."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """What is recorded after an epoch; the model has its last weights and may be given others."""
        return {}

    def steps(self) -> Iterator[int]:
        """Train, and yield the number of completed steps after each one."""
        every_s = 0.2 if sys.stderr.isatty() else 15.0
        bar = tqdm(total=self.total_steps, initial=self._step, unit="step", mininterval=every_s)
        first = 0
        with contextlib.closing(bar):
            for epoch, batches in enumerate(self.epochs):
                if self._is_past_best():
                    return
                for batch in batches[max(0, self._step - first) :]:
                    loss = self.learn(batch)
                    self._loss_sum += loss
                    bar.set_postfix(loss=f"{loss:.3f}", epoch=epoch + 1, refresh=False)
                    bar.update()
                    if self._step == first + len(batches):
                        self._end_epoch(epoch, len(batches))
                    yield self._step
                first += len(batches)

    def learn(self, batch: Batch) -> float:
        """Train on one batch and return its loss."""
        torch.manual_seed(self._recipe.seed * 1_000_003 + self._step)  # dropout depends only on the step
        self.model.train()
        factor = _schedule(self._step, self.total_steps, self._recipe.warmup_share)
        for group in self._optimiser.param_groups:
            group["lr"] = group["top_rate"] * factor
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._step += 1
        self._update_average()
        return float(loss.detach())

    def use_average(self) -> None:
        """Put the averaged weights into the model: those of the best epoch, if epochs are compared."""
        if self._best or self._recipe.average_decay:
            self.model.load_state_dict(self._best or self.average)

    def save(self, path: Path) -> None:
        """Write weights, averages and optimiser state to one safetensors file, atomically."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        for number, parameter in enumerate(self.model.parameters()):
            for name, tensor in self._optimiser.state[parameter].items():
                tensors[f"optimiser/{number}/{name}"] = tensor
        state = {
            "identity": self._identity,
            "step": self._step,
            "loss_sum": self._loss_sum,
            "history": self.history,
        }
        new = path.with_suffix(".new")
        save_file(tensors, new, metadata={"state": json.dumps(state)})
        os.replace(new, path)

    def restore(self, path: Path) -> None:
        """Continue from a file of `save`. Raises ValueError if it is of another run or cannot be read."""
        try:
            with safe_open(path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): remove it to start again") from error
        if state["identity"] != json.loads(json.dumps(self._identity)):
            raise ValueError(f"{path} belongs to another recipe: remove it or use its options")
        self.model.load_state_dict(_below(tensors, "model/"))
        self.average, self._best = _below(tensors, "average/"), _below(tensors, "best/")
        for number, parameter in enumerate(self.model.parameters()):
            if found := _below(tensors, f"optimiser/{number}/"):
                self._optimiser.state[parameter] = found
        self._step, self._loss_sum, self.history = state["step"], state["loss_sum"], state["history"]

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._recipe.average_decay, self._step / (self._step + 10))
        live = self.model.state_dict()
        torch._foreach_lerp_([self.average[name] for name in live], list(live.values()), 1 - decay)

    def _end_epoch(self, epoch: int, batches: int) -> None:
        live = _copy(self.model)
        result = {"epoch": epoch + 1, "train_loss": self._loss_sum / batches} | self.measure()
        if result.get("held_out_loss", math.inf) < min(self._losses(), default=math.inf):
            self._best = {name: tensor.clone() for name, tensor in self.average.items()}
        self.model.load_state_dict(live)
        self._loss_sum = 0.0
        self.history.append(result)
        figures = {name: round(value, 4) for name, value in result.items()}
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        tqdm.write(words if sys.stderr.isatty() else json.dumps(figures), file=sys.stderr)

    def _losses(self) -> list[float]:
        return [one["held_out_loss"] for one in self.history if "held_out_loss" in one]

    def _is_past_best(self) -> bool:
        losses = self._losses()
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.patience


def autocast() -> Any:
    """bf16 where the processor multiplies in it; elsewhere it would be slower than f32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16())


def layer_of(parameter: str, layers: int) -> int:
    """The layer of a parameter, by its name: from 0, -1 for embeddings, and `layers` for what is above."""
    if ".embeddings." in parameter or ".relative_attention_bias." in parameter:
        return -1
    return int(parameter.split(".layer.")[1].split(".")[0]) if ".layer." in parameter else layers


def groups(model: Any, recipe: Options) -> list[dict[str, Any]]:
    """Optimiser groups: the learning rate is multiplied by `layer_decay` per layer towards the embeddings."""
    layers = model.config.num_hidden_layers
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        depth = layers - layer_of(name, layers)
        decays = parameter.ndim > 1
        rate = recipe.learning_rate * recipe.layer_decay**depth
        new = {"params": [], "top_rate": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        found.setdefault((depth, decays), new)["params"].append(parameter)
    return list(found.values())


def _schedule(step: int, total: int, warmup_share: float) -> float:
    """Linear warm-up to 1, then linear decay to 0."""
    warmup = max(1, int(total * warmup_share))
    return (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)


def _copy(model: Any) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _below(tensors: State, prefix: str) -> State:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def pad(ids: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, each of shape (rows, longest)."""
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[padding] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return padded, mask


def bucket(rows: Batch, *, most_rows: int, most_tokens: int, rng: Random) -> list[Batch]:
    """Divide rows into batches of similar length, in random order; `most_tokens` counts padding."""
    ordered = sorted(rows, key=lambda row: (len(row[0]), rng.random()))
    batches: list[Batch] = [[]]
    for row in ordered:
        if len(batches[-1]) >= min(most_rows, max(1, most_tokens // len(row[0]))):
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


@torch.no_grad()
def answers(
    model: Any, ids: Sequence[Sequence[int]], width: int, answer: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What `answer` gives to padded ids and their masks, shape (texts, width), in the order of `ids`."""
    model.eval()
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    result = torch.zeros(len(ids), width)
    for first in range(0, len(order), _ANSWERED_ROWS):
        chosen = order[first : first + _ANSWERED_ROWS]
        padded = pad([ids[number] for number in chosen], model.config.pad_token_id or 0)
        result[chosen] = answer(*padded).float()
    return result


def predict(model: Any, ids: Sequence[Sequence[int]]) -> Scores:
    """Logits of shape (texts, labels), in the order of `ids`."""

    def logits(padded: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = model(input_ids=padded, attention_mask=mask).logits
        return found

    return np.asarray(answers(model, ids, model.config.num_labels, logits).numpy(), dtype=np.float64)
