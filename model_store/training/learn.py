"""The recipes: full fine-tuning, contrastive pairs, and a linear head alone. Imports torch.

`Learner` carries one out: from rows to a trained network, and logits to calibrate it with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from model_store.errors import BadTraining
from model_store.figures import Chosen, Scores
from model_store.training.base import base_digest, load_network
from model_store.training.data import Data, encode
from model_store.training.head import fit_best, loss, put, targets_of
from model_store.training.loop import Batch, Loop, answers, autocast, bucket, pad, predict
from model_store.training.recipes import Options

Encoded = Sequence[Sequence[int]]


class FineTuning(Loop):
    """Trains all weights on the labels; stops early on the loss of the rows in `tune`."""

    def __init__(
        self, network: Any, options: Options, train: Batch, tune: Batch, identity: dict[str, Any]
    ) -> None:
        self._options, self._tune = options, tune
        self._multi_label = network.config.problem_type == "multi_label_classification"
        self.patience = options.patience
        super().__init__(network, options, _epochs(train, options), identity)

    def loss(self, batch: Batch) -> Tensor:
        ids, mask = pad([row[0] for row in batch], self.model.config.pad_token_id or 0)
        targets = torch.stack([row[1] for row in batch])
        share = 0.5 if self._multi_label else 1 / targets.shape[1]
        targets = targets.lerp(torch.full_like(targets, share), self._options.label_smoothing)
        with autocast():
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        return loss(logits.float(), targets, multi_label=self._multi_label)

    def measure(self) -> dict[str, float]:
        """The loss of the averaged weights on the rows in `tune`."""
        self.model.load_state_dict(self.average)
        with autocast():
            logits = torch.tensor(predict(self.model, [row[0] for row in self._tune]))
        targets = torch.stack([row[1] for row in self._tune]).double()
        return {"held_out_loss": float(loss(logits, targets, multi_label=self._multi_label))}


class Contrastive(Loop):
    """Moves texts of the same labels together and others apart, as in SetFit (Tunstall et al. 2022).

    Every pair of a batch counts: the cosine of two texts should be the share of labels that they have in
    common. Pairs of like and of unlike texts have the same weight in sum.
    """

    def loss(self, batch: Batch) -> Tensor:
        ids, mask = pad([row[0] for row in batch], self.model.config.pad_token_id or 0)
        with autocast():
            embedded = embed(self.model, ids, mask)
        unit = torch.nn.functional.normalize(embedded.float(), dim=1)
        targets = torch.stack([row[1] for row in batch])
        common = targets @ targets.T
        sizes = targets.sum(dim=1)
        wanted = common / (sizes[:, None] + sizes - common).clamp(min=1.0)
        errors = (unit @ unit.T - wanted).square()
        above = torch.ones_like(errors).triu(diagonal=1)
        return _mean(errors, above * (wanted > 0)) + _mean(errors, above * (wanted == 0))


def embed(network: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """What the head reads of each text, shape (texts, features)."""
    hidden: Tensor = network.distilbert(input_ids=ids, attention_mask=mask)[0]
    return hidden[:, 0]


def features(network: Any, ids: Encoded) -> Tensor:
    """The features of each text, in order."""
    with autocast():
        return answers(network, ids, network.config.dim, partial(embed, network))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def _epochs(rows: Batch, options: Options) -> list[list[Batch]]:
    return [_batches(rows, options, Random(f"{options.seed}/{epoch}")) for epoch in range(options.epochs)]


def _batches(rows: Batch, options: Options, rng: Random) -> list[Batch]:
    """Batches of one epoch: random groups of eight batches, each sorted by length, so that batches vary."""
    rows = rng.sample(rows, len(rows))
    size = options.batch_rows * 8
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    if len(groups) > 1 and len(groups[-1]) < options.batch_rows:
        groups[-2:] = [groups[-2] + groups[-1]]
    made = []
    for group in groups:
        even = math.ceil(len(group) / math.ceil(len(group) / options.batch_rows))
        made += bucket(group, most_rows=even, most_tokens=options.batch_tokens, rng=rng)
    rng.shuffle(made)
    return made


CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Learned:
    """A trained network; logits and labels, each (texts, labels), of texts its head was not fitted on."""

    network: Any
    logits: Scores
    expected: Chosen
    history: list[dict[str, float]]


class Learner:
    """One run on `data`. Checkpoints are written to `work` every `checkpoint_s` seconds."""

    def __init__(self, base: Path, tokenizer: Any, data: Data, options: Options) -> None:
        self._tokenizer, self._data, self._options = tokenizer, data, options
        self._multi_label = data.survey.multi_label
        self._ids = {part: self._encode(part) for part in ("train", "tune")}
        self._targets = {
            part: targets_of([row.labels for row in getattr(data, part)], data.labels)
            for part in ("train", "tune")
        }
        self._identity = {"options": asdict(options), "base": base_digest(base), "data": data.digest()}
        self.network = load_network(base, data.labels, multi_label=self._multi_label, seed=options.seed)

    def learn(self, work: Path, say: Callable[[str], None], *, checkpoint_s: float) -> Learned:
        """Train. Raises BadTraining if the checkpoint in `work` is of another run."""
        loop = self._loop()
        if loop is not None:
            run(loop, work / CHECKPOINT, say, checkpoint_s)
        if self._options.recipe != "full":
            found, targets = features(self.network, self._ids["train"]), self._targets["train"]
            seed = self._options.seed
            head, (unseen, rows) = fit_best(found, targets, multi_label=self._multi_label, seed=seed)
            put(head, self.network)
        if loop is None:
            return Learned(self.network, unseen, targets[rows].numpy() > 0, [])
        logits = predict(self.network, self._ids["tune"])
        return Learned(self.network, logits, self._targets["tune"].numpy() > 0, loop.history)

    def _loop(self) -> Loop | None:
        """The batches of a recipe; None for `linear`."""
        train, tune = self._rows("train"), self._rows("tune")
        if self._options.recipe == "linear":
            return None
        if self._options.recipe == "contrastive":
            epochs = _epochs(train, self._options)
            return Contrastive(self.network, self._options, epochs, self._identity)
        return FineTuning(self.network, self._options, train, tune, self._identity)

    def _encode(self, part: str) -> list[Sequence[int]]:
        texts = [row.text for row in getattr(self._data, part)]
        return list(encode(self._tokenizer, texts, self._options.max_tokens))

    def _rows(self, part: str) -> Batch:
        return list(zip(self._ids[part], self._targets[part], strict=True))


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Raises BadTraining if what is written to the directory of a run cannot be, as on a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadTraining(
            f"{directory} cannot be written ({reason}): mend that and repeat the command, which continues "
            "from the last checkpoint."
        ) from error


def run(loop: Loop, checkpoint: Path, say: Callable[[str], None], checkpoint_s: float) -> None:
    """Run a loop to its end, from its checkpoint if there is one; its model gets the averaged weights."""
    if checkpoint.exists():
        try:
            loop.restore(checkpoint)
        except ValueError as error:
            raise BadTraining(f"{error}.") from error
        say(f"An interrupted run continues from {checkpoint}.")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    for step in loop.steps():
        if time.monotonic() - saved >= checkpoint_s and step < loop.total_steps:
            with writing(checkpoint.parent):
                loop.save(checkpoint)
            saved = time.monotonic()
    loop.use_average()
