"""Files of texts as `millrace classify` reads and writes them: CSV, NDJSON, or a text a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, get_args

from millrace.errors import CommandError

Format = Literal["csv", "ndjson", "txt"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = dict[str, Any]

_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".txt": "txt"}
_ADDED = ("label", "score", "error")
csv.field_size_limit(1024 * 1024)


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

    def _csv(self, file: TextIO) -> Iterator[Row]:
        rows = csv.DictReader(file, restkey="", restval=None, strict=True)
        try:
            if self.column not in (rows.fieldnames or ()):
                raise CommandError(f"{self.path} has no column {self.column!r}: choose one with --column.")
            for row in rows:
                if row[self.column] is None:
                    raise CommandError(f"{self.path}, line {rows.reader.line_num}: too few columns.")
                yield row
        except csv.Error as error:
            raise CommandError(f"{self.path}, line {rows.reader.line_num}: {error}.") from None

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
    """The row's own columns, then `label` and `score` of the best label, or the code of the `error`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows: csv.DictWriter[str] | None = None

    def write(self, row: Row, result: Any) -> None:
        """Adds one row; the first one decides the columns."""
        if self._rows is None:
            own = [name for name in row if name and name not in _ADDED]
            self._rows = csv.DictWriter(self._file, [*own, *_ADDED], extrasaction="ignore")
            self._rows.writeheader()
        if isinstance(result, dict):
            added = {"label": "", "score": "", "error": result["error"]["code"]}
        else:
            best = max(result, key=lambda pair: pair["score"])
            added = {**best, "error": ""}
        self._rows.writerow({**row, **added})


class NdjsonWriter:
    """The row's own object with `prediction`, every label and its score, or with `error`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: Row, result: Any) -> None:
        """Adds one line."""
        added = result if isinstance(result, dict) else {"prediction": result}
        self._file.write(json.dumps({**row, **added}, ensure_ascii=False) + "\n")
