"""`millrace sample`: the texts of a job that the model is least certain of, as a file to label."""

from __future__ import annotations

import argparse
import csv
import heapq
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from api.jobs.file_format import FORMATS, Hints
from millrace.classify import URL, read_key
from millrace.errors import CommandError
from millrace.text_files import TextFile

if TYPE_CHECKING:
    from millrace.job_client import JobClient

_SEED = 1
# Scores that add up to 1 within this are those of one label a text.
_ROUNDING = 0.01
Choice = tuple[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "file", nargs="?", metavar="FILE", help="texts to choose from; they are classified unless they were"
    )
    source.add_argument("--job", metavar="ID", help="a finished job whose texts were kept (keep_input=true)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="CSV to label, new")
    parser.add_argument("-n", "--texts", type=int, default=200, help="number of texts to choose (200)")
    parser.add_argument(
        "--random", action="store_true", help="choose at random, for a file to measure the model on"
    )
    parser.add_argument("--url", default=URL, help=f"address of the service ({URL})")
    parser.add_argument("--format", choices=FORMATS, help="format of FILE (by its suffix, else its content)")
    parser.add_argument("--column", default="text", help="column or field of FILE that holds the text (text)")
    parser.add_argument("--label-column", default="label", help="name of the empty column of OUT (label)")
    parser.add_argument("--api-key-file", type=Path, help="file that holds the API key")
    parser.epilog = (
        "OUT has the text, its label (to fill in), the predicted one and its score. Uncertain texts teach a "
        "model most, but accuracy must be measured on random ones."
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file to label."""
    if find_spec("httpx") is None or find_spec("rich") is None:
        raise CommandError("required packages are missing: pip install 'millrace-server[cli]'.")
    from millrace.job_client import JobClient

    if args.output.exists():
        raise CommandError(f"{args.output} exists, and may have labels: choose another name.")
    with JobClient(args.url, read_key(args.api_key_file)) as client:
        try:
            chosen = choose(_results(args, client), args.texts, at_random=args.random)
        except ValueError:
            raise CommandError("the texts changed while they were being classified.") from None
    try:
        _write(args, chosen)
    except OSError as error:
        raise CommandError(f"cannot write {args.output}: {error.strerror}.") from None
    print(f"{args.output}: {len(chosen)} texts; fill in the column {args.label_column}.")
    return 0


def choose(results: Iterable[Choice], count: int, *, at_random: bool) -> list[Choice]:
    """The `count` different texts with the least certain results, or any; those with errors are left out."""
    rng, seen = Random(_SEED), set[int]()
    kept: list[tuple[float, int, Choice]] = []
    for number, (text, result) in enumerate(results):
        if isinstance(result, dict) or (known := hash(" ".join(text.casefold().split()))) in seen:
            continue
        seen.add(known)
        heapq.heappush(kept, (rng.random() if at_random else doubt(result), -number, (text, result)))
        if len(kept) > count:
            heapq.heappop(kept)
    return [entry[2] for entry in sorted(kept, reverse=True)]


def doubt(result: list[dict[str, Any]]) -> float:
    """How uncertain a result is, from 0 to 1.

    How near the best two scores are to each other or, with any number of labels, how near one is to 0.5.
    """
    scores: list[float] = sorted((pair["score"] for pair in result), reverse=True)
    if len(scores) > 1 and abs(sum(scores) - 1.0) < _ROUNDING:
        return 1.0 - (scores[0] - scores[1])
    return 1.0 - 2.0 * min(abs(score - 0.5) for score in scores)


def _results(args: argparse.Namespace, client: JobClient) -> Iterator[Choice]:
    """Every text with its result."""
    if args.job:
        job = client.find(args.job)
        texts: Iterator[str] = client.texts(job)
    else:
        path = Path(args.file)
        if not path.is_file():
            raise CommandError(f"file not found: {path}.")
        source = TextFile(path, Hints(args.column, args.format))
        job = client.follow(client.submit(source))
        texts = source.texts()
    if job["status"] != "finished":
        raise CommandError(f"the job is {job['status']}; only a finished one can be sampled.")
    return zip(texts, client.results(job), strict=True)


def _write(args: argparse.Namespace, chosen: list[Choice]) -> None:
    path: Path = args.output
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow((args.column, args.label_column, "predicted", "score"))
        for text, result in chosen:
            best = max(result, key=lambda pair: pair["score"])
            table.writerow((text, "", best["label"], f"{best['score']:.4f}"))
    os.replace(part, path)
