"""Reads and writes the files of `millrace classify`: CSV, NDJSON, or one text per line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, get_args

from api.jobs.csv_rows import BadTable, read_table
from millrace.errors import CommandError

Format = Literal["csv", "ndjson", "txt"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = dict[str, Any]

_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".txt": "txt"}
# Names of the added fields; the second set is used if the file already has a field of the first set.
_CSV_NAMES = (("label", "score", "error"), ("predicted_label", "predicted_score", "prediction_error"))
_NDJSON_NAMES = (("prediction", "error"), ("predicted", "prediction_error"))


def format_of(path: str) -> Format | None:
    """The format that the suffix of a file's name indicates."""
    return _BY_SUFFIX.get(Path(path).suffix.lower())


class TextFile:
    """A file with one text per row, in `column`. It may be read several times."""

    def __init__(self, path: Path, form: Format, column: str) -> None:
        self.path = path
        self.form = form
        self.column = "text" if form == "txt" else column

    def rows(self) -> Iterator[Row]:
        """Yields every row; its text is a string. Raises CommandError naming the line that is invalid."""
        read = {"csv": self._csv, "ndjson": self._ndjson, "txt": self._txt}[self.form]
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from read(file)
            except UnicodeDecodeError:
                raise CommandError(f"{self.path} is not UTF-8.") from None

    def texts(self) -> Iterator[str]:
        """Yields the text of every row."""
        return (row[self.column] for row in self.rows())

    def names(self) -> list[str]:
        """The names of all columns, or of all fields that occur in any line, in order of appearance."""
        names: dict[str, None] = {}
        for row in self.rows():
            names.update(dict.fromkeys(row))
            if self.form != "ndjson":
                break
        return list(names)

    def _csv(self, file: TextIO) -> Iterator[Row]:
        rows = read_table(file)
        try:
            names = next(rows)
            if self.column not in names:
                raise CommandError(f"{self.path} has no column {self.column!r}: choose one with --column.")
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise CommandError(f"{self.path} has two columns {twice[0]!r}.")
            for row in rows:
                yield dict(zip(names, row, strict=True))
        except BadTable as error:
            raise CommandError(f"{self.path}, line {error.line}: {error}.") from None

    def _ndjson(self, file: TextIO) -> Iterator[Row]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise CommandError(f"{self.path}, line {number}: not valid JSON.") from None
            row = {self.column: value} if isinstance(value, str) else value
            if not isinstance(row, dict) or not isinstance(row.get(self.column), str):
                problem = f"neither a string nor an object with a string {self.column!r}"
                raise CommandError(f"{self.path}, line {number}: {problem}.")
            yield row

    def _txt(self, file: TextIO) -> Iterator[Row]:
        for line in file:
            yield {"text": line.rstrip("\r\n")}


class Writer(Protocol):
    """Writes rows with their results: labels with scores, or {"error": {"code", "detail"}}."""

    def write(self, row: Row, result: Any) -> None:
        """Adds one row."""


class CsvWriter:
    """Writes the columns of the file, then the best label and its score, or the error's code."""

    def __init__(self, file: TextIO, names: Sequence[str]) -> None:
        self._added = _free(_CSV_NAMES, names)
        self._rows = csv.DictWriter(file, [*names, *self._added])
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
        self._file.write(json.dumps({**row, **added}, ensure_ascii=False) + "\n")


def _free(choices: Sequence[tuple[str, ...]], taken: Sequence[str]) -> tuple[str, ...]:
    """The first set of names that the file does not use; numbered names if it uses some of every set."""
    numbered = (tuple(f"{name}_{number}" for name in choices[-1]) for number in count(2))
    return next(names for names in chain(choices, numbered) if not set(names) & set(taken))
