"""Reads the files of `millrace classify` and `sample`, rows with a text, and writes the rows with results."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol, TextIO

from api.asgi.json_reader import is_unicode
from api.jobs.file_format import BadFile, FileFormat, FormatName, Hints
from api.jobs.file_rows import FileRows, Row
from millrace.errors import CommandError

OutputFormat = Literal["csv", "tsv", "ndjson"]
_OUTPUTS: dict[str, OutputFormat] = {".csv": "csv", ".tsv": "tsv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_BLOCK_BYTES = 256 * 1024
# Names of the added fields; the second set is used if the file already has a field of the first set.
_CSV_NAMES = (("label", "score", "error"), ("predicted_label", "predicted_score", "prediction_error"))
_NDJSON_NAMES = (("prediction", "error"), ("predicted", "prediction_error"))


def output_format(path: str, source: FormatName) -> OutputFormat:
    """The format that the suffix of the output indicates; without a suffix, that of the source.

    Raises CommandError for a suffix of another format.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix in _OUTPUTS:
        return _OUTPUTS[suffix]
    if suffix:
        raise CommandError(f"cannot write {suffix} files: name the output {', '.join(_OUTPUTS)}.")
    return "ndjson" if source in ("ndjson", "json") else "tsv" if source == "tsv" else "csv"


class TextFile:
    """A file with one text per row. It may be read several times. `name` stands for it in messages."""

    def __init__(self, path: Path, hints: Hints, name: str = "") -> None:
        self.path = path
        self.name = name or str(path)
        self.column = hints.column
        self._hints = hints

    @property
    def format(self) -> FileFormat:
        """How it is read. Raises CommandError if it is not a file of texts."""
        rows = self._open()
        next(self._checked(rows), None)
        assert rows.format is not None, "reading detects the format"
        return rows.format

    def rows(self) -> Iterator[Row]:
        """Yields every row; its text is a string. Raises CommandError naming the line that is invalid."""
        return self._checked(self._open())

    def texts(self) -> Iterator[str]:
        """Yields the text of every row."""
        return (row[self.column] for row in self.rows())

    def names(self) -> list[str]:
        """The names of all columns, or of all fields that occur in any row, in order of appearance."""
        rows = self._open()
        names: dict[str, None] = {}
        for row in self._checked(rows):
            names.update(dict.fromkeys(row))
            if rows.names is not None:
                break
        return list(rows.names or names)

    def _open(self) -> FileRows:
        return FileRows(self._blocks(), self.name, self._hints)

    def _blocks(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise CommandError(f"{self.name} cannot be read: {error.strerror}.") from None

    def _checked(self, rows: FileRows) -> Iterator[Row]:
        try:
            yield from rows
        except BadFile as error:
            raise CommandError(self._sentence(error)) from None

    def _sentence(self, error: BadFile) -> str:
        where = "" if error.line is None else f", line {error.line}"
        advice = ""
        if error.columns is not None:
            advice = " Choose one with --column."
        elif error.kind == "string_unicode":
            advice = " Name its encoding, e.g. --encoding windows-1252."
        return f"{self.name}{where}: {error}{'' if str(error).endswith('?') else '.'}{advice}"


@contextlib.contextmanager
def opened(name: str, hints: Hints) -> Iterator[TextFile]:
    """The file, or a copy of standard input or a pipe, because the input is read several times."""
    if name == "-" and sys.stdin is None:
        raise CommandError("standard input is closed: name a file.")
    path, said = Path("/dev/stdin" if name == "-" else name), "standard input" if name == "-" else name
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CommandError(f"file not found: {name}.") from None
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise CommandError(f"{name} is a directory: name the files in it.")
    if name != "-" and stat.S_ISREG(mode):
        yield TextFile(path, hints)
        return
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="millrace-", suffix=".in"))
            with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else path.open("rb") as source:
                shutil.copyfileobj(source, copy)
            copy.flush()
        except OSError as error:
            raise CommandError(
                f"{said} cannot be copied to a temporary file: {error.strerror}; set TMPDIR to another "
                "directory."
            ) from None
        yield TextFile(Path(copy.name), hints, said)


class Writer(Protocol):
    """Writes rows with their results: labels with scores, or {"error": {"code", "detail"}}."""

    def write(self, row: Row, result: Any) -> None:
        """Adds one row."""


class CsvWriter:
    """Writes the columns of the file, then the best label and its score, or the error's code."""

    def __init__(self, file: TextIO, names: Sequence[str], delimiter: str = ",") -> None:
        self._added = _free(_CSV_NAMES, names)
        self._rows = csv.DictWriter(file, [*names, *self._added], delimiter=delimiter)
        self._rows.writeheader()

    def write(self, row: Row, result: Any) -> None:
        """Adds one row."""
        values: tuple[object, ...]
        if isinstance(result, dict):
            values = "", "", result["error"]["code"]
        else:
            best = max(result, key=lambda pair: pair["score"])
            values = best["label"], best["score"], ""
        self._rows.writerow({**row, **dict(zip(self._added, values, strict=True))})


class NdjsonWriter:
    """Writes the row's object with the prediction (every label and its score) or the error added."""

    def __init__(self, file: TextIO, names: Sequence[str]) -> None:
        self._prediction, self._error = _free(_NDJSON_NAMES, names)
        self._file = file

    def write(self, row: Row, result: Any) -> None:
        added = {self._error: result["error"]} if isinstance(result, dict) else {self._prediction: result}
        line = json.dumps({**row, **added}, ensure_ascii=False)
        if not is_unicode(line):  # half a surrogate pair in another field, which is escaped as it was before
            line = json.dumps({**row, **added})
        self._file.write(f"{line}\n")


def _free(choices: Sequence[tuple[str, ...]], taken: Sequence[str]) -> tuple[str, ...]:
    """The first set of names that the file does not use; numbered names if it uses some of every set."""
    numbered = (tuple(f"{name}_{number}" for name in choices[-1]) for number in count(2))
    return next(names for names in chain(choices, numbered) if not set(names) & set(taken))
