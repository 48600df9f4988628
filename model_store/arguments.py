"""Options of several commands: what runs a model, and where models are kept. Standard library only."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what runs the model."""
    engine = "what runs the model (default: auto, the fastest one that is installed)"
    parser.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto", help=engine)
    precision = "arithmetic of the model (default: auto, the fastest one that passes the proof)"
    parser.add_argument(
        "--precision", choices=("auto", "f32", "bf16", "int8"), default="auto", help=precision
    )
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    number = "number of threads (default: 0, all cores that this process may use)"
    parser.add_argument("--threads", type=int, default=0, help=number)


def threads(args: argparse.Namespace) -> int:
    """The value of `--threads`. Raises ArgumentTypeError for a negative one, with which engines fail."""
    count: int = args.threads
    if count < 0:
        raise argparse.ArgumentTypeError("--threads must be 0 or more.")
    return count


def add_artefact_dir(parser: argparse.ArgumentParser) -> None:
    kept = "directory of pulled and built models (default: ~/.cache/millrace)"
    parser.add_argument("--artefact-dir", type=Path, default=Path("~/.cache/millrace"), help=kept)


def add_pull(parser: argparse.ArgumentParser) -> None:
    """Add what names a checkpoint on the hub, and where it goes."""
    parser.add_argument(
        "reference", metavar="ORG/NAME@COMMIT", help="for a branch, its current commit is printed"
    )
    parser.add_argument("--to", type=Path, help="target directory (default: where org/name@commit is found)")
    parser.add_argument(
        "--convert-pickle",
        action="store_true",
        help="convert the weights if the repository has only a pickle",
    )
    add_artefact_dir(parser)
