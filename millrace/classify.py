"""`millrace classify`: classifies a file through a job and shows its progress. Repeating a run resumes it."""

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
    parser.add_argument("file", metavar="FILE", help="texts to classify (-: standard input)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        default="-",
        help="file for the results (-: standard output, the default)",
    )
    parser.add_argument("--url", default=URL, help=f"address of the service ({URL})")
    parser.add_argument("--format", choices=FORMATS, help="format of FILE (by its suffix, else txt)")
    parser.add_argument(
        "--column", default="text", help="column (CSV) or field (NDJSON) that holds the text (text)"
    )
    parser.add_argument("--api-key-file", type=Path, help="file that holds the API key")
    parser.add_argument("--keep", action="store_true", help="do not delete the finished job from the service")
    parser.epilog = (
        "A txt file has one text per line. OUT contains the rows of FILE with the results added. Its suffix "
        "sets its format; without a known suffix, it is NDJSON if FILE is NDJSON, and CSV otherwise. Exit "
        "status: 0 if every text has a prediction, 1 if some have an error instead, 2 if the command failed, "
        "130 if it was interrupted: the job continues, and the same command resumes it."
    )


def run(args: argparse.Namespace) -> int:
    """Submits the file, waits for the job, and writes the results."""
    if find_spec("httpx") is None or find_spec("rich") is None:
        raise CommandError("required packages are missing: pip install 'millrace-server[cli]'.")
    from millrace.job_client import JobClient

    with _input(args) as source, JobClient(args.url, read_key(args.api_key_file)) as client:
        job = client.submit(source)
        try:
            job = client.follow(job)
        except KeyboardInterrupt:
            where = f"{args.url}/jobs/{job['id']}"
            print(
                f"The job continues; the same command resumes it. To cancel it: curl -X DELETE {where}",
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
    """The file, or a copy of standard input, because the input is read three times."""
    form = args.format or format_of(args.file) or "txt"
    if args.file != "-":
        path = Path(args.file)
        if not path.is_file():
            raise CommandError(f"file not found: {path}.")
        yield TextFile(path, form, args.column)
        return
    with tempfile.NamedTemporaryFile(prefix="millrace-", suffix=".in") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield TextFile(Path(copy.name), form, args.column)


def read_key(path: Path | None) -> str:
    """The API key in a file, or an empty string without one."""
    try:
        return path.read_text().strip() if path else ""
    except OSError as error:
        raise CommandError(f"--api-key-file {path}: {error.strerror}.") from None


def _write(args: argparse.Namespace, source: TextFile, client: JobClient, job: dict[str, Any]) -> None:
    """Writes the results. OUT is replaced only once it is complete."""
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
        raise CommandError(f"{source.path} changed while it was being classified.") from None
