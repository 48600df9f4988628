"""`millrace sample`: the texts of a job that the model is least certain of, as a file to label."""

from __future__ import annotations

import argparse
import contextlib
import csv
import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from millrace.arguments import FileName
from millrace.errors import CommandError, saying
from millrace.job_client import JobClient, add_job_arguments, together
from text_files.source import TextFile, hints, opened

_SEED = 1
# Scores that add up to 1 within this are those of one label a text.
_ROUNDING = 0.01
# Columns of OUT after the text and its label.
_OTHER_COLUMNS = ("predicted", "score")
Choice = tuple[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        type=FileName,
        help="texts to choose from (-: standard input); they are classified first, unless they have been",
    )
    source.add_argument("--job", metavar="ID", help="a finished job whose texts were kept (keep_input=true)")
    out = "CSV file to label, which must not exist yet"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=out)
    parser.add_argument(
        "-n", "--texts", type=int, default=200, help="number of texts to choose (default: 200)"
    )
    parser.add_argument(
        "--random", action="store_true", help="choose at random, for a file to measure the model on"
    )
    add_job_arguments(parser)
    label = "name of the column of OUT to fill in (default: label)"
    parser.add_argument("--label-column", default="label", help=label)
    parser.epilog = (
        "OUT has columns for the text, its label (to fill in), the predicted label and its score. Uncertain "
        "texts teach a model most, but its accuracy must be measured on random ones (--random)."
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file to label."""
    if args.texts < 1:
        raise CommandError("-n must be at least 1.")
    _check_output(args)
    with contextlib.ExitStack() as stack:
        source = None
        if args.job is None:
            source = stack.enter_context(opened(args.file, hints(args)))
        client = stack.enter_context(JobClient.of(args))
        chosen = choose(_results(args, client, source), args.texts, at_random=args.random)
    if not chosen:
        raise CommandError("none of the texts has a result, so there is nothing to choose from.")
    with saying(f"cannot write {args.output}"):
        _write(args, chosen)
    print(f"{args.output}: {len(chosen)} texts; fill in the column {args.label_column}.")
    return 0


def _check_output(args: argparse.Namespace) -> None:
    """Raises CommandError if OUT could not be written once the texts are classified."""
    if args.label_column in (args.column, *_OTHER_COLUMNS):
        raise CommandError(f"OUT has a column {args.label_column!r} already: choose another --label-column.")
    if os.path.lexists(args.output):
        raise _exists(args.output)
    if not os.access(args.output.parent, os.W_OK):
        raise CommandError(f"cannot write {args.output}: files cannot be created in {args.output.parent}.")


def _exists(path: Path) -> CommandError:
    return CommandError(f"{path} exists, and may have labels: choose another name.")


def choose(results: Iterable[Choice], count: int, *, at_random: bool) -> list[Choice]:
    """The `count` different texts with the least certain results, or any; those with errors are left out."""
    rng, seen = Random(_SEED), set[int]()

    def different() -> Iterator[Choice]:
        for text, result in results:
            known = hash(" ".join(text.casefold().split()))
            if not isinstance(result, dict) and known not in seen:
                seen.add(known)
                yield text, result

    return heapq.nlargest(count, different(), lambda one: rng.random() if at_random else doubt(one[1]))


def doubt(result: list[dict[str, Any]]) -> float:
    """How uncertain a result is, from 0 to 1.

    How near the best two scores are to each other or, with any number of labels, how near one is to 0.5.
    """
    scores: list[float] = sorted((pair["score"] for pair in result), reverse=True)
    if len(scores) > 1 and abs(sum(scores) - 1.0) < _ROUNDING:
        return 1.0 - (scores[0] - scores[1])
    return 1.0 - 2.0 * min(abs(score - 0.5) for score in scores)


def _results(args: argparse.Namespace, client: JobClient, source: TextFile | None) -> Iterator[Choice]:
    """Every text with its result."""
    if source is None:
        job = client.find(args.job)
        texts: Iterator[str] = client.texts(job)
    else:
        job = client.follow(client.submit(source), source)
        texts = source.texts()
    if job["status"] != "finished":
        raise CommandError(f"the status of the job is {job['status']}: only a finished job can be sampled.")
    return together(texts, client.results(job, source), "the texts" if source is None else source.name)


def _write(args: argparse.Namespace, chosen: list[Choice]) -> None:
    """Writes OUT as a whole. Raises CommandError if there is such a file by now."""
    path: Path = args.output
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow((args.column, args.label_column, *_OTHER_COLUMNS))
            for text, result in chosen:
                best = max(result, key=lambda pair: pair["score"])
                table.writerow((text, "", best["label"], f"{best['score']:.4f}"))
        _name(part, path)
    finally:
        part.unlink(missing_ok=True)


def _name(part: Path, path: Path) -> None:
    """Gives a file its name, which no other has. Not every file system has links, which would do the same."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise _exists(path) from None
    try:
        os.replace(part, path)
    except OSError:
        path.unlink()
        raise
