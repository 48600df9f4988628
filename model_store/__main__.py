"""`python -m model_store`: commands that prepare and inspect models before they are served."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from model_store import commands
from model_store.arguments import add_artefact_dir, add_engine, add_pull
from model_store.errors import ModelError
from model_store.random_model import SHAPES

_MODEL = "default, a directory, or org/name@commit (default: default)"
Command = Callable[[argparse.Namespace], Iterator[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0, or 2 after printing an error to stderr."""
    args = _parser().parse_args(arguments)
    try:
        for line in args.run(args):
            print(line)
    except (ModelError, argparse.ArgumentTypeError) as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        extra = "build" if name == "torch" else "models"
        install = f"pip install 'millrace-server[{extra}]'"
        print(f"This command needs {name}, which is not installed: {install}.", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_store", description=__doc__)
    parser.add_argument_group("example", "%(prog)s info ./my-model")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=summary, description=summary)
        added.add_argument_group("example", f"%(prog)s {example}")
        added.set_defaults(run=command)
        return added

    _add_sources(add)
    _add_artefacts(add)
    _add_answers(add)
    return parser


Add = Callable[[str, Command, str, str], argparse.ArgumentParser]


def _add_sources(add: Add) -> None:
    pull = "fetch a pinned checkpoint from the Hugging Face Hub"
    add_pull(add("pull", commands.pull, pull, "SamLowe/roberta-base-go_emotions@main"))

    summary = "convert a pickle checkpoint to safetensors"
    convert = add("convert-pickle", commands.convert_pickle, summary, "./my-model")
    convert.add_argument("directory", type=Path)

    summary = "write a checkpoint with random weights, for benchmarks"
    random = add("random", commands.random, summary, "--config bert-base --out ./random")
    shapes = f"shape of the model: {', '.join(SHAPES)} (default: distilbert-base)"
    random.add_argument("--config", default="distilbert-base", help=shapes)
    random.add_argument("--out", type=Path, required=True, help="directory to write, empty or new")
    random.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")

    summary = "record the digests of a checkpoint, so that changes are detected"
    seal = add("seal", commands.seal, summary, "./my-model")
    seal.add_argument("directory", type=Path)
    seal.add_argument(
        "--probes",
        action="store_true",
        help="also compute its answers to the probes with torch, so that machines without torch can build it",
    )


def _add_artefacts(add: Add) -> None:
    summary = "check that a model can be read, and print its directory"
    locate = add("locate", commands.locate, summary, "./my-model")
    locate.add_argument("reference", metavar="MODEL", help=_MODEL)
    add_artefact_dir(locate)

    summary = "build a checkpoint into an artefact for one engine"
    build = add("build", commands.build, summary, "--model ./my-model --out ./artefact")
    build.add_argument(
        "--out", type=Path, required=True, help="the artefact directory; it is replaced if it exists"
    )
    build.add_argument("--name", help="name of the model (default: taken from the reference)")
    build.add_argument(
        "--check",
        type=Path,
        metavar="TSV",
        help="compare the artefact with torch f32 on these labelled texts",
    )
    build.add_argument("--force", action="store_true", help="keep the artefact even if it fails the check")
    _add_model(build)

    summary = "compare every file of a model with its recorded digest"
    verify = add("verify", commands.verify, summary, "./my-model --run")
    verify.add_argument("reference", metavar="MODEL", help="a directory, default, or org/name@commit")
    verify.add_argument(
        "--run",
        dest="run_probes",
        action="store_true",
        help="also prove each arithmetic and layout on this processor, and print differences by length",
    )
    add_engine(verify)
    add_artefact_dir(verify)
    info = add(
        "info", commands.info, "labels, parameters, size, revision, engine and token limit", "./my-model"
    )
    # The same as --model. SUPPRESS keeps the value of --model if this argument is omitted.
    info.add_argument("model", nargs="?", default=argparse.SUPPRESS, help=_MODEL)
    _add_model(info)


def _add_answers(add: Add) -> None:
    summary = "accuracy, F1, calibration and speed on labelled texts"
    evaluate = add("evaluate", commands.evaluate, summary, "--data test.tsv --model ./my-model")
    evaluate.add_argument(
        "--data", type=Path, required=True, metavar="TSV", help="lines of text<TAB>label below a header"
    )
    evaluate.set_defaults(columns=None, against="", cascade="")
    evaluate.add_argument("--json", type=Path, help="also write the figures to this file")
    evaluate.add_argument(
        "--write-reference",
        action="store_true",
        help="store the distribution of these texts in the artefact, as the reference for drift detection",
    )
    _add_model(evaluate)

    predict = add("predict", commands.predict, "classify texts without a server", '"I love you."')
    predict.add_argument("text", nargs="+")
    _add_model(predict)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="default", help=_MODEL)
    add_engine(parser)
    add_artefact_dir(parser)


if __name__ == "__main__":
    sys.exit(main())
