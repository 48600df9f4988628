"""The options of `millrace train` and of files with labelled texts. Standard library only."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_store.training.data import TEST_SHARE, Order, Source
from model_store.training.recipes import NAMES
from model_store.training.table import MOST_ROWS, Columns


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a file has its texts and labels."""
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of the text (text)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="column of the label (label)")
    parser.add_argument(
        "--separator", default="", metavar="TEXT", help="a text may have several labels, separated by this"
    )


def columns(args: argparse.Namespace) -> Columns:
    """The columns that `add_columns` has read."""
    return Columns(args.text_column, args.label_column, args.separator)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `millrace train`."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="labelled texts: CSV, TSV, NDJSON"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="directory for the model, a new one"
    )
    add_columns(parser)
    parser.add_argument("--test", type=Path, metavar="FILE", help="texts to test on, instead of a share")
    parser.add_argument(
        "--test-share", type=float, default=TEST_SHARE, help=f"share of the rows to test on ({TEST_SHARE})"
    )
    parser.add_argument(
        "--base", default="default", help="default, minilm (its package must be installed) or a directory"
    )
    parser.add_argument("--recipe", choices=NAMES, help="how to train (chosen by the amount of data)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (1)")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores that this process may use")
    parser.add_argument(
        "--most-rows", type=int, default=MOST_ROWS, help=f"use a random sample of longer files ({MOST_ROWS})"
    )
    parser.add_argument("--replace", action="store_true", help="replace the model in DIR, if there is one")
    parser.epilog = "An interrupted run continues where it was, if the same command is repeated."


def order(args: argparse.Namespace) -> Order:
    """What the options ask for."""
    if not 0 < args.test_share < 1:
        raise argparse.ArgumentTypeError("--test-share must be between 0 and 1.")
    source = Source(
        tuple(args.files), columns(args), args.test, args.test_share, max(2, args.most_rows), args.seed
    )
    return Order(source, args.out, args.base, args.recipe, args.replace, args.threads)
