"""Asks a teacher about the texts that a student will see: `python -m default_model.domains.label --help`.

The answers are a line for each text: set, margin of the logits, text. A run that was interrupted goes on, and
what it has written is of use at any time: a text without an answer keeps its label. `read_answers` makes
probabilities of the margins, with a line fitted on the held-out texts of each set.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from default_model.calibration import fit_line
from default_model.corpus import Row, Split
from default_model.domains.mixing import SENTENCES, SST2, Drawn, drawn_rows
from default_model.domains.sets import RECIPES, Mixture, prepared, read_mixture
from default_model.recipe import Recipe
from default_model.train import load_split
from default_model.trainer import logits_of
from model_store.rows import sigmoid
from model_store.training.data import encode
from model_store.training.loop import Batch, bucket, pad

MAX_TOKENS = 128


def held_out(split: Split, mixture: Mixture) -> list[Drawn]:
    """What the lines are fitted on: `choose` of each set (windows of long texts) and sentences of SST-2."""
    rng = Random("held out")
    found = [Drawn(SST2, row) for row in split.held_out]
    return found + [
        Drawn(one.name, Row(prepared(row, one.share, rng).text, row.positive))
        for one in mixture.sets
        for row in one.choose
        if row.positive != 0.5
    ]


def read_answers(path: Path, split: Split, mixture: Mixture) -> dict[str, float]:
    """The teacher's P(positive) of each text of the file, as it is likely in its set."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name, margin, text in _lines(path):
        found[name][text] = margin
    fitted: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, row in held_out(split, mixture):
        if row.text in found[name]:
            fitted[name].append((found[name][row.text], row.positive))
    fitted[SENTENCES] = fitted[SST2]  # the most alike of those that people have labelled
    answers: dict[str, float] = {}
    for name, margins in found.items():
        if pairs := fitted[name]:
            slope, offset = fit_line(*map(np.array, zip(*pairs, strict=True)))
            scores = sigmoid(slope * np.array(list(margins.values())) + offset)
            answers |= dict(zip(margins, scores.tolist(), strict=True))
    return answers


def label(teacher: Path, rows: Iterable[Drawn], out: Path, *, seed: int) -> None:
    """Write the teacher's answers to the texts that `out` lacks, in an order drawn from `seed`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    known = {(name, text) for name, _, text in _lines(out)} if out.is_file() else set()
    wanted = dict.fromkeys((name, row.text) for name, row in rows if row.positive != 0.5)
    todo = [one for one in wanted if one not in known]
    if not todo:
        return
    model = AutoModelForSequenceClassification.from_pretrained(teacher, local_files_only=True).eval()
    ids = encode(
        AutoTokenizer.from_pretrained(teacher, local_files_only=True), [text for _, text in todo], MAX_TOKENS
    )
    batches = bucket(
        list(zip(ids, todo, strict=True)), most_rows=128, most_tokens=2048, rng=Random(f"{seed}/label")
    )
    with out.open("a", encoding="utf-8") as file:
        for batch in tqdm(batches, unit="batch", mininterval=15):
            _answer(model, batch, file)


@torch.no_grad()
def _answer(model: Any, batch: Batch, file: TextIO) -> None:
    logits = logits_of(model, *pad([ids for ids, _ in batch], model.config.pad_token_id))
    margins = (logits[:, 1] - logits[:, 0]).tolist()
    for margin, (_, (name, text)) in zip(margins, batch, strict=True):
        file.write(f"{name}\t{margin:.4f}\t{text}\n")
    file.flush()


def _lines(path: Path) -> Iterator[tuple[str, float, str]]:
    """Set, margin and text of each whole line."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.endswith("\n"):
                name, margin, text = line[:-1].split("\t", 2)
                yield name, float(margin), text


def main(arguments: list[str] | None = None) -> int:
    """Label as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.domains.label", description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="folder of SST-2, with train.tsv and others")
    parser.add_argument("--sets", type=Path, required=True, help="folder of the other sets, as NAME.tsv")
    parser.add_argument("--names", nargs="*", help="ask only about these sets, such as sst2")
    parser.add_argument("--out", type=Path, required=True, help="file for the answers")
    parser.add_argument("--recipe", choices=RECIPES, default="default", help="recipe of the student")
    parser.add_argument("--seed", type=int, default=1, help="seed of the student that will see the texts")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        mixture = read_mixture(args.sets, recipe=args.recipe)
        split = load_split(args.data, Recipe())
        for rows in (held_out(split, mixture), drawn_rows(split, mixture, args.seed)):
            chosen = [drawn for drawn in rows if not args.names or drawn.name in args.names]
            label(args.teacher, chosen, args.out, seed=args.seed)
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"label: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
