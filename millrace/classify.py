"""`millrace classify`: classifies a file through a job and shows its progress. Repeating a run resumes it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from millrace.arguments import FileName
from millrace.errors import CommandError, saying
from millrace.job_client import JobClient, add_job_arguments, together
from text_files.errors import BadFile
from text_files.formats import FileFormat, stem
from text_files.output import OUTPUTS, Output, OutputFormat, like
from text_files.preview import Preview
from text_files.source import TextFile, hints, opened
from text_files.typed import TYPED

EXIT_SOME_FAILED = 1
# More labels than these are added up in the last line.
LABELS = 5
_CHANGES = "--column, --format, --delimiter, --encoding, --no-header and --no-quotes"


class Target(NamedTuple):
    """Where results go ("-": standard output), and how they are written."""

    path: str
    output: Output


def output_format(path: str, source: FileFormat) -> OutputFormat:
    """The format that the suffix of the output indicates; without a suffix, that of the source.

    Raises CommandError for a suffix of another format.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix and suffix not in OUTPUTS:
        raise CommandError(f"cannot write {suffix} files: name the output {', '.join(OUTPUTS)}.")
    return OUTPUTS[suffix] if suffix else like(source)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = "texts to classify (-: standard input)"
    parser.add_argument("files", metavar="FILE", type=FileName, nargs="+", help=files)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=FileName,
        default="-",
        help="file for the results, or a directory for those of several FILEs (default: -, standard output)",
    )
    add_job_arguments(parser)
    parser.add_argument("--force", action="store_true", help="let OUT replace FILE")
    parser.add_argument("--keep", action="store_true", help="do not delete the finished job from the service")
    parser.epilog = (
        "FILE is CSV, TSV, NDJSON, JSON or plain text with one text per line (blank lines are skipped), also "
        "compressed with gzip or zstd; with the extra `tables` also Parquet, Arrow or XLSX. OUT contains the "
        f"rows of FILE with the results added, in the format of its suffix ({', '.join(OUTPUTS)}). Several "
        "FILEs become NAME-labelled files in the directory OUT. Exit status: 0 if every text has a "
        "prediction, 1 if some have an error instead, 2 if the command failed, 130 if it was interrupted: "
        "the job continues, and the same command resumes it."
    )


def run(args: argparse.Namespace) -> int:
    """Submits each file, waits for its job, and writes the results."""
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(opened(name, hints(args))) for name in args.files]
        # Every file and name is checked before the first job is submitted.
        previews = [source.preview() for source in sources]
        formats = [preview.format for preview in previews]
        targets = _targets(args, formats)
        for target in targets:
            _check_writable(target)
        client = stack.enter_context(JobClient.of(args))
        failed = 0
        for source, preview, target in zip(sources, previews, targets, strict=True):
            _show(source.name, preview)
            failed += _classify(args, client, source, target)
    return EXIT_SOME_FAILED if failed else 0


def _show(name: str, preview: Preview) -> None:
    """Prints how a file is read, its first rows, and how to change that."""
    found = preview.format
    lines = [f"{name}: {found}", *(f"    {line}" for line in preview.lines())]
    if found.note:
        options = f" (--no-header --column {found.headerless})" if found.headerless else ""
        lines.append(f"Note: {found.note}{options}.")
    lines.append(f"Texts are in the column with *. {_CHANGES} change how the file is read.")
    print("\n".join(lines), file=sys.stderr)


def _targets(args: argparse.Namespace, formats: list[FileFormat]) -> list[Target]:
    """Where the results of each file go. Raises CommandError before anything is sent."""
    if len(args.files) == 1:
        if args.output not in ("-", "/dev/stdout") and os.path.isdir(args.output):
            raise CommandError(f"{args.output} is a directory: name a file.")
        form = output_format("" if args.output == "-" else args.output, formats[0])
        try:
            targets = [Target(args.output, Output.of(formats[0], form))]
        except BadFile as error:
            raise CommandError(f"cannot write {args.output}: {error}.") from None
    elif not os.path.isdir(args.output):
        raise CommandError("several files need a directory for their results: -o DIRECTORY.")
    else:
        targets = []
        for name, found in zip(args.files, formats, strict=True):
            path = Path(args.output, f"{PurePath(stem(name)).stem}-labelled")
            targets.append(Target(f"{path}.{like(found)}", Output.of(found)))
    _check_files(args, targets)
    return targets


def _check_files(args: argparse.Namespace, targets: list[Target]) -> None:
    """Raises CommandError if results would replace a file that is read, or other results."""
    inputs = [None if name == "-" else os.path.realpath(name) for name in args.files]
    outputs = [None if target.path == "-" else os.path.realpath(target.path) for target in targets]
    if len(set(outputs)) < len(outputs):
        raise CommandError(
            "the results of two files would have the same name: classify them one at a time, each with "
            "its own -o."
        )
    for own, target, path in zip(inputs, targets, outputs, strict=True):
        if path is None or path not in inputs:
            continue
        if path != own:
            raise CommandError(f"{target.path} is another input: choose another directory with -o.")
        if not args.force:
            raise CommandError(
                f"{target.path} is the input: choose another name, or replace it with --force."
            )


def _classify(args: argparse.Namespace, client: JobClient, source: TextFile, target: Target) -> int:
    """One file through one job. Returns how many of its texts have an error."""
    began = time.monotonic()
    job = client.submit(source)
    try:
        job = client.follow(job, source)
    except KeyboardInterrupt:
        where = f"{client.url}/jobs/{job['id']}"
        print(
            f"The job continues; the same command resumes it. To cancel it: curl -X DELETE {where}",
            file=sys.stderr,
        )
        raise
    if job["status"] != "finished":
        ended = "was cancelled" if job["status"] == "cancelled" else "failed"
        reason = (job["error"] or {}).get("detail", "")
        raise CommandError(
            f"the job {ended}{': ' if reason else ''}{reason}; repeat the command to start it again."
        )
    _write(target, source, client, job)
    if not args.keep:
        client.delete(job)
    print(_summary(job, time.monotonic() - began, target), file=sys.stderr)
    if unknown := job.get("unknown"):  # an earlier version does not say
        print(
            f"The model does not know more than half of the pieces of {unknown} of {job['total']} texts, "
            "which may be of another language: do not rely on their labels.",
            file=sys.stderr,
        )
    failed: int = job["failed"]
    if failed:
        print(f"{failed} of {job['total']} texts have an error instead of a prediction.", file=sys.stderr)
    return failed


def _summary(job: dict[str, Any], seconds: float, target: Target) -> str:
    """How many texts have each label, how long that took, and where it is."""
    predictions = job["total"] - job["failed"]
    labels = job.get("labels", [])[:LABELS]  # an earlier version does not say
    shown = [f"{one['texts']:,} {one['label']}" for one in labels]
    if labels and (rest := predictions - sum(one["texts"] for one in labels)):
        shown.append(f"{rest:,} others")
    where = "" if target.path == "-" else f" -> {target.path}"
    return f"{predictions:,} predictions{': ' if shown else ''}{', '.join(shown)}; {seconds:.1f} s{where}"


def _part(target: Target) -> tuple[Path, Path]:
    """The file that is written at the end, and the one that is written first; a device or pipe is both."""
    path = Path(target.path)
    if os.path.isfile(path) or not os.path.exists(path):  # these of Path may raise OSError
        path = Path(os.path.realpath(path))
        return path, path.with_name(f"{path.name}.{os.getpid()}.part")
    return path, path


def _check_writable(target: Target) -> None:
    """Raises CommandError if the results could not be written, which may take hours to compute."""
    if target.path == "-" and sys.stdout is None:
        raise CommandError("standard output is closed: name a file with -o.")
    if target.path == "-" and target.output.format in TYPED and sys.stdout.isatty():
        raise CommandError(f"{TYPED[target.output.format][0]} is not for a terminal: name a file with -o.")
    path, part = _part(target)
    if target.path == "-" or part == path:
        return
    with saying(f"cannot write {target.path}"):
        part.touch()
        part.unlink()


def _write(target: Target, source: TextFile, client: JobClient, job: dict[str, Any]) -> None:
    """Writes the results. A file is replaced once it is complete, a device or pipe never."""
    if target.path == "-":
        _join(sys.stdout.buffer, target.output, source, client, job)
        sys.stdout.buffer.flush()
        return
    path, part = _part(target)
    try:
        with saying(f"cannot write {target.path}"):
            with part.open("wb") as file:
                _join(file, target.output, source, client, job)
            if part != path:
                os.replace(part, path)
    finally:
        if part != path:
            part.unlink(missing_ok=True)


def _join(file: BinaryIO, output: Output, source: TextFile, client: JobClient, job: dict[str, Any]) -> None:
    try:
        rows = together(source.rows(), client.results(job, source), source.name)
        file.writelines(output.blocks(source.names(), rows))
    except UnicodeEncodeError as error:
        part = ascii(error.object[error.start : error.end])
        raise CommandError(
            f"cannot write {part} as {error.encoding}: write NDJSON to a file, -o NAME.ndjson."
        ) from None
