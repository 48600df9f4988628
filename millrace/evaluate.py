"""`millrace evaluate`: measures a model on a file of labelled texts, and compares it with another."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from millrace.errors import CommandError
from millrace.installation import reporting_models
from model_store.arguments import add_artefact_dir, add_engine
from model_store.training import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="FILE", help="labelled texts: CSV, TSV or NDJSON")
    command.add_columns(parser)
    parser.add_argument(
        "--model", default="default", help="default, a directory, or org/name@revision (default: default)"
    )
    parser.add_argument("--against", default="", metavar="MODEL", help="compare with this model (McNemar)")
    parser.add_argument(
        "--cascade",
        default="",
        metavar="MODEL",
        help="what this larger model would add if it were asked wherever --model is not sure",
    )
    parser.add_argument(
        "--within",
        type=float,
        default=0.005,
        metavar="SHARE",
        help="accuracy that a cascade may lose against the larger model (default: 0.005, half a point)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument(
        "--write-reference",
        action="store_true",
        help="store the distribution of these texts with the model, as the reference for drift detection",
    )
    add_engine(parser)
    add_artefact_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the figures."""
    # Waiting threads of OpenMP spin by default, which takes the processor from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if args.json and not os.access(args.json.parent, os.W_OK):
        raise CommandError(f"cannot write {args.json}: files cannot be created in {args.json.parent}.")
    if not 0 <= args.within <= 1:
        raise CommandError("--within must be between 0 and 1.")
    args.columns = command.columns(args)
    with reporting_models():
        from model_store.commands import evaluate

        for line in evaluate(args):
            print(line)
    return 0
