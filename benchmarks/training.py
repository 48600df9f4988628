"""Accuracy and cost of each training recipe on made-up sets: `python -m benchmarks.training`.

Each case is a set of `tests.labelled.make_sets` and a number of its first rows per label to train on.
All recipes are tested on the same texts. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

from model_store.training.data import Order, Source
from model_store.training.recipes import NAMES, Name
from model_store.training.report import Result
from model_store.training.run import train
from model_store.training.table import Columns
from tests.labelled.make_sets import SETS, Maker, rows, write

CASES = ("topics:16", "questions:16", "intents:16", "aspects:16", "topics:500", "questions:200")


def main(arguments: list[str] | None = None) -> int:
    """Run every case with every recipe. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--sets", nargs="+", default=CASES, metavar="SET:ROWS", help="cases to run")
    parser.add_argument("--recipes", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--base", default="default")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores that this process may use")
    args = parser.parse_args(arguments)
    print("| set, rows a label | recipe | base | accuracy | 95 % | bag of words | minutes | processor s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in args.sets:
        for recipe in args.recipes:
            name, _, count = case.partition(":")
            with tempfile.TemporaryDirectory() as scratch:
                result = _run(name, int(count), recipe, args, Path(scratch))
            low, high = result.figures.interval_95
            print(
                f"| {name}, {count} | {recipe} | {args.base} | {result.figures.accuracy:.1%} | "
                f"{low:.1%} to {high:.1%} | {result.bag_of_words:.1%} | {result.seconds / 60:.1f} | "
                f"{result.processor_seconds:.0f} |",
                flush=True,
            )
    return 0


def _run(name: str, count: int, recipe: Name, args: argparse.Namespace, scratch: Path) -> Result:
    labels = len(Maker(name, test=False, seed=1).labels)
    write(scratch / "train.csv", islice(rows(name, SETS[name][0], test=False), count * labels))
    write(scratch / "test.csv", rows(name, SETS[name][1], test=True))
    columns = Columns(separator=";" if name == "aspects" else "")
    source = Source((scratch / "train.csv",), columns, test=scratch / "test.csv")
    order = Order(source, scratch / "model", args.base, recipe, threads=args.threads)
    return train(order, lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    sys.exit(main())
