"""Reads CSV: RFC 4180 quotes, and a first line that names the columns.

Every row must have as many columns as the first line: rows are never truncated, padded or skipped. An empty
line is a row with one empty column, and therefore an error if there are several columns. Empty lines at the
end are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from api.asgi.json_reader import MAX_FIELD

# The most columns of a table; spreadsheets have as many.
MAX_COLUMNS = 16 * 1024
# The limit of the csv module is that of the whole process; the one that holds here is that of a record.
csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))


# By the beginning of the message of the csv module.
_ADVICE = {
    "new-line character": (
        "a carriage return outside of quotes: lines end in LF or CRLF, and quotes enclose other line breaks"
    ),
    "unexpected end": "the file ends inside of a quoted field: a quote is not closed",
}


_LONG_RECORD = f"a record is longer than {MAX_FIELD} characters; perhaps a quote is not closed"


class BadTable(ValueError):
    """An error in a table: the line, a stable type, and a message."""

    def __init__(self, kind: str, line: int, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line


def read_table(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """Yields the column names, then every row. Raises BadTable with the first line of the bad row."""
    record = _Record(lines)
    rows = csv.reader(record, delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        if len(names) > MAX_COLUMNS:
            raise BadTable("too_long", 1, f"{len(names)} columns, but a table may have {MAX_COLUMNS}")
        record.begin()
        yield names
        first = rows.line_num + 1
        empty = 0
        for row in rows:
            record.begin()
            if row:
                yield from _empty_rows(first, empty, len(names))
                if len(row) != len(names):
                    kind = "missing" if len(row) < len(names) else "extra_forbidden"
                    raise BadTable(kind, first + empty, _columns(len(row), len(names)))
                yield row
                first = rows.line_num + 1
                empty = 0
            else:
                empty += 1
    except csv.Error as error:
        raise BadTable("csv_invalid", rows.line_num, _sentence(str(error))) from None


class _Record:
    """Yields lines to a csv.reader. Raises BadTable if one record takes more than MAX_FIELD characters."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._size = 0
        self._lines = enumerate(lines, 1)

    def begin(self) -> None:
        """The next line begins another record."""
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self._size += len(line)
            if self._size > MAX_FIELD:
                raise BadTable("string_too_long", number, _LONG_RECORD)
            yield line


def _empty_rows(first: int, count: int, columns: int) -> Iterator[list[str]]:
    if count and columns != 1:
        raise BadTable("missing", first, f"empty line, but the first line names {columns} columns")
    for _ in range(count):
        yield [""]


def _sentence(message: str) -> str:
    """The error of the csv module as a sentence that says what to do."""
    advice = (part for beginning, part in _ADVICE.items() if message.startswith(beginning))
    return next(advice, message)


def _columns(found: int, wanted: int) -> str:
    return f"{found} column{'s' * (found != 1)}, but the first line names {wanted}"
