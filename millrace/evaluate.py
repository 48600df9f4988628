"""`millrace evaluate`: measures a model on a file of labelled texts, and compares it with another."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from millrace.errors import CommandError
from model_store.errors import ModelError
from model_store.training import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="FILE", help="labelled texts: CSV, TSV or NDJSON")
    command.add_columns(parser)
    parser.add_argument("--model", default="default", help="default, a directory, or org/name@revision")
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
        help="accuracy that a cascade may lose against the larger model (0.005: half a point)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument(
        "--write-reference",
        action="store_true",
        help="store the distribution of these texts with the model, as the reference for drift detection",
    )
    parser.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument("--precision", choices=("auto", "f32", "bf16", "int8"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores that this process may use")
    parser.add_argument(
        "--artefact-dir", type=Path, default=Path("~/.cache/millrace"), help="directory of built models"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the figures."""
    # Waiting threads of OpenMP spin by default, which takes the processor from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from model_store.commands import evaluate

    args.columns = command.columns(args)
    try:
        for line in evaluate(args):
            print(line)
    except ModelError as error:
        raise CommandError(str(error)) from None
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'millrace-server[build]'.") from None
    return 0
