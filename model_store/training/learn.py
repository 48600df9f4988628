"""Carries out a recipe: from rows to a trained network, and logits to calibrate it with. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from model_store.errors import BadTraining
from model_store.figures import Chosen, Scores
from model_store.training.base import base_digest, load_network
from model_store.training.data import Data, encode
from model_store.training.fine_tuning import Contrastive, FineTuning, features
from model_store.training.head import fit_best, put, targets_of
from model_store.training.loop import Batch, Loop, predict
from model_store.training.recipes import Options

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
        self.network = load_network(
            base, data.labels, multi_label=self._multi_label, pooled=True, seed=options.seed
        )

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
            return Contrastive(self.network, self._options, train, self._identity)
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
