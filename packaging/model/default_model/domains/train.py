"""Trains on many kinds of text: `python -m default_model.domains.train --data SST2 --sets DIR --out OUT`.

Starts from the embedded default (or `--start`), gives emoji pieces of the vocabulary, and writes a plain
Hugging Face directory. After an interruption, the same command continues from the last checkpoint and ends
with the same weights. `--recipe` names shares of mixture.toml. With `--answers`, a part of each target is
what a teacher says (label.py), where it has answered.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from default_model.corpus import Row, Split
from default_model.domains.emoji import add_pieces
from default_model.domains.label import read_answers
from default_model.domains.mixing import SIBLINGS, epoch_rows, families
from default_model.domains.sets import RECIPES, Mixture, read_mixture
from default_model.recipe import Recipe
from default_model.soup import mean_of
from default_model.train import METRICS, load_split
from default_model.trainer import Trainer, cross_entropy, logits_of
from model_store.checkpoint import WEIGHTS
from model_store.convert import export
from model_store.prepare import DEFAULT
from model_store.training.data import encode
from model_store.training.loop import Batch, bucket, layer_of, pad

CHECKPOINT = "checkpoint.safetensors"
AGREEMENT = 1.0  # weight of the variance of siblings' margins
# The options of Recipe that this training reads. Two dropouts of a row would cost a second pass.
RECIPE = Recipe(
    epochs=1, batch_rows=128, batch_tokens=4096, max_tokens=128, label_smoothing=0.03,
    consistency=0.0, average_decay=0.995, noise_share=0.12,
)  # fmt: skip


class SiblingBatch(Batch):
    """Rows of which each SIBLINGS in turn are one family."""


class DomainTrainer(Trainer):
    """A Trainer whose rows are those of a mixture, and whose loss has a term for siblings."""

    def __init__(
        self, start: Path, settings: Recipe, split: Split, mixture: Mixture, answers: Mapping[str, float]
    ) -> None:
        self._mixture, self._answers = mixture, answers
        super().__init__(start, settings, split)
        without_dropout(self.model)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy; in a batch of siblings, also the mean variance of a family's margins."""
        ids, mask = pad([row[0] for row in batch], self.model.config.pad_token_id)
        logits = logits_of(self.model, ids, mask)
        loss = cross_entropy(logits, self.targets(batch, ids, mask))
        if isinstance(batch, SiblingBatch):
            margins = (logits[:, 1] - logits[:, 0]).view(-1, SIBLINGS)
            loss = loss + AGREEMENT * margins.var(dim=1).mean()
        return loss

    def _batches(self, epoch: int) -> list[Batch]:
        rng = Random(f"{self.recipe.seed}/{epoch}")
        rows = list(epoch_rows(self._split, self._mixture, self.recipe, rng, self._answers))
        batches = bucket(
            self._encoded(rows),
            most_rows=self.recipe.batch_rows,
            most_tokens=self.recipe.batch_tokens,
            rng=Random(f"{self.recipe.seed}/{epoch}/batches"),
        )
        drawn = families(rows, rng, count=self._mixture.made["siblings"])
        size = max(1, self.recipe.batch_rows // SIBLINGS)
        for first in range(0, len(drawn), size):
            members = [row for family in drawn[first : first + size] for row in family]
            batches.append(SiblingBatch(self._encoded(members)))
        rng.shuffle(batches)
        return batches

    def _encoded(self, rows: list[Row]) -> Batch:
        ids = encode(self._tokenizer, [row.text for row in rows], self.recipe.max_tokens)
        return list(zip(ids, (row.positive for row in rows), strict=True))


def train(
    data: Path,
    mixture: Mixture,
    start: Sequence[Path],
    out: Path,
    settings: Recipe,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Train into `out`, or continue an interrupted run there; saves every 50 steps. Returns the metrics."""
    prepared = out / "start"
    if not (prepared / "tokenizer_config.json").exists():
        prepare_start(start, prepared)
    split = load_split(data, settings)
    found = read_answers(answers, split, mixture) if answers else {}
    torch.manual_seed(settings.seed)  # for the classifier, if `start` has none
    trainer = DomainTrainer(prepared, settings, split, mixture, found)
    freeze(trainer.model, mixture.frozen)
    if (out / CHECKPOINT).exists():
        trainer.restore(out / CHECKPOINT)
    began = time.monotonic()
    for step in trainer.steps():
        if step % 50 == 0 and step < trainer.total_steps:
            trainer.save(out / CHECKPOINT)
    trainer.use_average()
    export(trainer.model, prepared, out, temperature=1.0)  # calibrate.py fits it
    metrics = {
        "recipe": asdict(settings),
        "rows": {one.name: len(one.rows) for one in mixture.sets},
        "made": mixture.made,
        "steps": trainer.total_steps,
        "seconds": round(time.monotonic() - began),
        "epochs": trainer.history,
    }
    (out / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def prepare_start(start: Sequence[Path], out: Path) -> None:
    """Write the mean of the weights of `start` to `out`, with emoji. Raises ValueError if pieces differ."""
    add_pieces(start[0], out)
    if len(start) == 1:
        return
    states = [load_file(out / WEIGHTS)]
    for path in start[1:]:
        with TemporaryDirectory() as scratch:
            add_pieces(path, Path(scratch))
            if (
                Tokenizer.from_file(f"{scratch}/tokenizer.json").get_vocab()
                != Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
            ):
                raise ValueError(f"{path} has other pieces of words than {start[0]}")
            states.append(load_file(Path(scratch) / WEIGHTS))
    save_file(mean_of(states), out / WEIGHTS, metadata={"format": "pt"})


def freeze(model: Any, layers: int) -> None:
    """Keep the weights of the embeddings and of the first `layers` layers; 0 keeps none."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not layers or layer_of(name, model.config.num_hidden_layers) >= layers)


def without_dropout(model: Any) -> None:
    """One epoch, in which no row is seen twice, needs no dropout, which costs a tenth of the time."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.domains.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of SST-2: train.tsv and others")
    parser.add_argument("--sets", type=Path, required=True, help="folder of the other sets: NAME.tsv")
    parser.add_argument(
        "--start", type=Path, nargs="+", default=[DEFAULT],
        help="model to train on (default: the embedded one), or several, of whose weights the mean is used",
    )  # fmt: skip
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--answers", type=Path, help="a teacher's answers, from default_model.domains.label")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model and its checkpoints")
    parser.add_argument("--seed", type=int, default=RECIPE.seed)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        mixture = read_mixture(args.sets, recipe=args.recipe)
        settings = replace(
            RECIPE, seed=args.seed, learning_rate=mixture.learning_rate, teacher_share=mixture.teacher_share
        )
        train(args.data, mixture, args.start, args.out, settings, args.answers)
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
