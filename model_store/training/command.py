"""The options of `millrace train` and of files with labelled texts. Standard library only."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_store.arguments import add_threads, threads
from model_store.training.data import TEST_SHARE, Order, Source
from model_store.training.recipes import NAMES
from model_store.training.table import MAX_ROWS, Columns
from text_files.source import add_options, hints

# torch's seeds, one for each step, are made from these.
_SEEDS = 2**32


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a file has its texts and labels."""
    add_options(parser)
    label = "column of the label (default: label)"
    parser.add_argument("--label-column", default="label", metavar="NAME", help=label)
    parser.add_argument(
        "--separator", default="", metavar="TEXT", help="a text may have several labels, separated by this"
    )


def columns(args: argparse.Namespace) -> Columns:
    """The columns that `add_columns` has read."""
    return Columns(args.column, args.label_column, args.separator, hints(args))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `millrace train`."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="labelled texts: CSV, TSV or NDJSON"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="new directory for the model"
    )
    add_columns(parser)
    test = "labelled texts to test on, instead of a share of the rows"
    parser.add_argument("--test", type=Path, metavar="FILE", help=test)
    share = f"share of the rows to test on (default: {TEST_SHARE})"
    parser.add_argument("--test-share", type=float, default=TEST_SHARE, help=share)
    base = "model to start from: default, minilm (its package must be installed) or a directory"
    parser.add_argument("--base", default="default", help=f"{base} (default: default)")
    parser.add_argument("--recipe", choices=NAMES, help="how to train (default: by the amount of data)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: 1)")
    add_threads(parser)
    most = f"use a random sample of this many rows if there are more (default: {MAX_ROWS})"
    parser.add_argument("--most-rows", type=int, default=MAX_ROWS, help=most)
    parser.add_argument("--replace", action="store_true", help="replace the model in DIR, if there is one")
    parser.epilog = "To continue an interrupted run, repeat the same command."


def order(args: argparse.Namespace) -> Order:
    """What the options ask for."""
    if not 0 < args.test_share < 1:
        raise argparse.ArgumentTypeError("--test-share must be between 0 and 1.")
    if abs(args.seed) >= _SEEDS:
        raise argparse.ArgumentTypeError(f"--seed must be below {_SEEDS:,}.")
    if args.most_rows < 2:
        raise argparse.ArgumentTypeError("--most-rows must be at least 2.")
    source = Source(tuple(args.files), columns(args), args.test, args.test_share, args.most_rows, args.seed)
    return Order(source, args.out, args.base, args.recipe, args.replace, threads(args))
