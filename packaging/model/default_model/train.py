"""Trains the embedded default: `python -m default_model.train --data DIR --base DIR --out DIR`.

The steps are: convert the base, hold out sentences, train on newly augmented epochs, average the weights, fit
a temperature on the held-out sentences, export in fp16. After an interruption at any step, the same command
continues from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from default_model.corpus import Split, read_rows, split_rows
from default_model.recipe import Recipe

_CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with these arguments. Returns the exit status."""
    import torch

    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    try:
        train(
            args.data, args.base, args.out, recipe,
            teachers=args.teachers, checkpoint_steps=args.checkpoint_steps,
        )  # fmt: skip
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m default_model.train", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train.tsv, train_sentences.tsv, dev.tsv"
    )
    parser.add_argument("--base", type=Path, required=True, help="BERT directory, such as all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model and its checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--checkpoint-steps", type=int, default=200, help="steps between checkpoints")
    parser.add_argument(
        "--teacher", type=Path, action="append", default=[], metavar="RUN", dest="teachers",
        help="directory of a finished run of the same base to distil from; may be repeated",
    )  # fmt: skip
    recipe = parser.add_argument_group("recipe")
    for field in fields(Recipe):
        option, default = f"--{field.name.replace('_', '-')}", field.default
        recipe.add_argument(
            option, type=type(default), default=default, help=f"{field.metadata['help']} (default {default})"
        )
    return parser


def load_split(data: Path, recipe: Recipe) -> Split:
    """Read SST-2 from `data` and split it according to `recipe`. No part contains a dev sentence."""
    split = split_rows(
        read_rows(data / "train.tsv")[: recipe.limit or None],
        read_rows(data / "train_sentences.tsv")[: recipe.limit or None],
        held_out=recipe.held_out,
        seed=0,
        excluded=[row.text for row in read_rows(data / "dev.tsv")],
    )
    if not split.sentences:
        raise ValueError(f"{data}: nothing is left to train on if {recipe.held_out} sentences are held out")
    return split


def train(
    data: Path,
    base: Path,
    out: Path,
    recipe: Recipe,
    *,
    teachers: Sequence[Path] = (),
    checkpoint_steps: int = 200,
) -> None:
    """Train a model into `out`, or continue an interrupted run there.

    `teachers` are directories of finished runs. Raises ValueError if the checkpoint in `out` belongs to
    another recipe or other teachers, or if a teacher has another tokenizer.
    """
    from default_model.convert import convert
    from default_model.trainer import Trainer
    from model_store.convert import export
    from model_store.figures import fit_temperature

    split = load_split(data, recipe)
    start = out / "base"
    if not (start / "tokenizer_config.json").exists():
        convert(base, start)
    trainer = Trainer(start, recipe, split, teachers)
    if (out / _CHECKPOINT).exists():
        trainer.restore(out / _CHECKPOINT)

    began = time.monotonic()
    for step in trainer.steps():
        if step % checkpoint_steps == 0 and step < trainer.total_steps:
            trainer.save(out / _CHECKPOINT)
    trainer.use_average()
    scores, labels = trainer.held_out_scores()
    temperature = fit_temperature(scores, labels)
    export(trainer.model, start, out, temperature=temperature)
    metrics = {
        "recipe": asdict(recipe),
        "teachers": trainer.teacher_digests,
        "rows": {name: len(getattr(split, name)) for name in ("phrases", "sentences", "held_out")},
        "steps": trainer.total_steps,
        "seconds": round(time.monotonic() - began),
        "epochs": trainer.history,
        "temperature": temperature,
    }
    (out / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    (out / _CHECKPOINT).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
