"""`millrace classify`: a file through a job, with a progress bar. After an interruption, run it again."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import CommandError
from millrace.text_files import FORMATS, CsvWriter, NdjsonWriter, TextFile, Writer, format_of

if TYPE_CHECKING:
    from millrace.job_client import JobClient

URL = "http://127.0.0.1:8000"
EXIT_SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, in which form, to which service, and where the results go."""
    parser.add_argument("file", metavar="FILE", help="texts to classify; -: standard input")
    parser.add_argument(
        "-o", "--output", metavar="OUT", default="-", help="results; -: standard output (default)"
    )
    parser.add_argument("--url", default=URL, help=f"the service ({URL})")
    parser.add_argument("--format", choices=FORMATS, help="of FILE: by its name, else txt, a text a line")
    parser.add_argument(
        "--column", default="text", help="column (CSV) or field (NDJSON) with the text (text)"
    )
    parser.add_argument("--api-key-file", type=Path, help="file that holds the API key")
    parser.add_argument("--keep", action="store_true", help="leave the finished job on the service")
    parser.epilog = (
        "OUT has the rows of FILE and the results beside them: as its name says, else NDJSON for NDJSON and "
        "CSV for the rest. Exit status: 0 every text has a prediction, 1 some have an error instead, 2 it "
        "could not be done, 130 interrupted: the job goes on, and the same command continues with it."
    )


def run(args: argparse.Namespace) -> int:
    """Hands the file in, waits for the job, writes the results."""
    if find_spec("httpx") is None or find_spec("rich") is None:
        raise CommandError("this needs more packages: pip install 'millrace[cli]'.")
    from millrace.job_client import JobClient

    with _input(args) as source, JobClient(args.url, _key(args.api_key_file)) as client:
        job = client.submit(source)
        try:
            job = client.follow(job)
        except KeyboardInterrupt:
            where = f"{args.url}/jobs/{job['id']}"
            print(
                f"The job goes on; the same command continues with it. To cancel: curl -X DELETE {where}",
                file=sys.stderr,
            )
            raise
        if job["status"] != "finished":
            reason = (job["error"] or {}).get("detail", "")
            raise CommandError(f"the job is {job['status']}{': ' if reason else ''}{reason}.")
        _write(args, source, client, job)
        if not args.keep:
            client.delete(job)
    if job["failed"]:
        print(
            f"{job['failed']} of {job['total']} texts have an error instead of a prediction.", file=sys.stderr
        )
    return EXIT_SOME_FAILED if job["failed"] else 0


@contextlib.contextmanager
def _input(args: argparse.Namespace) -> Iterator[TextFile]:
    """The file, or a copy of standard input: it is read three times."""
    form = args.format or format_of(args.file) or "txt"
    if args.file != "-":
        path = Path(args.file)
        if not path.is_file():
            raise CommandError(f"there is no file {path}.")
        yield TextFile(path, form, args.column)
        return
    with tempfile.NamedTemporaryFile(prefix="millrace-", suffix=".in") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield TextFile(Path(copy.name), form, args.column)


def _key(path: Path | None) -> str:
    try:
        return path.read_text().strip() if path else ""
    except OSError as error:
        raise CommandError(f"--api-key-file {path}: {error.strerror}.") from None


def _write(args: argparse.Namespace, source: TextFile, client: JobClient, job: dict[str, Any]) -> None:
    """OUT appears whole or not at all."""
    form = format_of(args.output) or source.form
    kind: type[CsvWriter] | type[NdjsonWriter] = NdjsonWriter if form == "ndjson" else CsvWriter
    names = source.names()
    if args.output == "-":
        _join(kind(sys.stdout, names), source, client, job)
        sys.stdout.flush()
        return
    part = Path(f"{args.output}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            _join(kind(file, names), source, client, job)
        os.replace(part, args.output)
    except OSError as error:
        raise CommandError(f"cannot write {args.output}: {error.strerror}.") from None
    finally:
        part.unlink(missing_ok=True)


def _join(writer: Writer, source: TextFile, client: JobClient, job: dict[str, Any]) -> None:
    try:
        for row, result in zip(source.rows(), client.results(job), strict=True):
            writer.write(row, result)
    except ValueError:
        raise CommandError(f"{source.path} has changed while it was classified.") from None
