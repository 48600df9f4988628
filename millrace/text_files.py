"""Files of texts as `millrace classify` reads and writes them: CSV, NDJSON, or a text a line."""

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
# What is written beside the fields of the file; the second where the first would meet one of them.
_CSV_NAMES = (("label", "score", "error"), ("predicted_label", "predicted_score", "prediction_error"))
_NDJSON_NAMES = (("prediction", "error"), ("predicted", "prediction_error"))


def format_of(path: str) -> Format | None:
    """The format that a file's name promises."""
    return _BY_SUFFIX.get(Path(path).suffix.lower())


class TextFile:
    """A file whose rows each hold one text, in `column`. May be read several times."""

    def __init__(self, path: Path, form: Format, column: str) -> None:
        self.path = path
        self.form = form
        self.column = "text" if form == "txt" else column

    def rows(self) -> Iterator[Row]:
        """Every row, its text a string. Raises CommandError with the line where the file makes no sense."""
        read = {"csv": self._csv, "ndjson": self._ndjson, "txt": self._txt}[self.form]
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from read(file)
            except UnicodeDecodeError:
                raise CommandError(f"{self.path} is not UTF-8.") from None

    def texts(self) -> Iterator[str]:
        """The text of every row."""
        return (row[self.column] for row in self.rows())

    def names(self) -> list[str]:
        """The names of all columns, or of all fields that any line has, in the order of their coming."""
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
                wanted = f"neither a string nor an object with the string {self.column!r}"
                raise CommandError(f"{self.path}, line {number}: {wanted}.")
            yield row

    def _txt(self, file: TextIO) -> Iterator[Row]:
        for line in file:
            yield {"text": line.rstrip("\r\n")}


class Writer(Protocol):
    """Writes a row with its result: labels with scores, or {"error": {"code", "detail"}}."""

    def write(self, row: Row, result: Any) -> None:
        """Adds one row."""


class CsvWriter:
    """The columns of the file, then label and score of the best label, or the code of the error."""

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
    """The row's own object with the prediction, every label and its score, or with the error."""

    def __init__(self, file: TextIO, names: Sequence[str]) -> None:
        self._prediction, self._error = _free(_NDJSON_NAMES, names)
        self._file = file

    def write(self, row: Row, result: Any) -> None:
        """Adds one line."""
        added = {self._error: result["error"]} if isinstance(result, dict) else {self._prediction: result}
        self._file.write(json.dumps({**row, **added}, ensure_ascii=False) + "\n")


def _free(choices: Sequence[tuple[str, ...]], taken: Sequence[str]) -> tuple[str, ...]:
    """The first names of which the file has none; numbered ones, where it has some of each choice."""
    numbered = (tuple(f"{name}_{number}" for name in choices[-1]) for number in count(2))
    return next(names for names in chain(choices, numbered) if not set(names) & set(taken))
