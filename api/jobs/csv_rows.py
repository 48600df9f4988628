"""Rows of CSV: commas, RFC 4180 quotes, a first line that names the columns. csv is the standard library's.

No row is cut, filled up or left out: a row must have as many columns as the first line. An empty line is a
row whose only column is empty, so among several columns it is an error; empty lines at the end are no rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

# Longest field, in characters; of other forms, longest line or string.
MAX_FIELD = 1024 * 1024
csv.field_size_limit(MAX_FIELD)


class BadTable(ValueError):
    """Where a table stops making sense: the line, a stable type, and a sentence without its full stop."""

    def __init__(self, kind: str, line: int, said: str) -> None:
        super().__init__(said)
        self.kind = kind
        self.line = line


def read_table(lines: Iterable[str]) -> Iterator[list[str]]:
    """The names of the columns, then every row. Raises BadTable; a row is told by its first line."""
    rows = csv.reader(lines, strict=True)
    try:
        names = next(rows, [])
        yield names
        first, empty = rows.line_num + 1, 0
        for row in rows:
            if row:
                yield from _empty_rows(first, empty, len(names))
                if len(row) != len(names):
                    kind = "missing" if len(row) < len(names) else "extra_forbidden"
                    raise BadTable(kind, first + empty, _columns(len(row), len(names)))
                yield row
                first, empty = rows.line_num + 1, 0
            else:
                empty += 1
    except csv.Error as error:
        raise BadTable("csv_invalid", rows.line_num, str(error)) from None


def _empty_rows(first: int, count: int, columns: int) -> Iterator[list[str]]:
    if count and columns != 1:
        raise BadTable("missing", first, f"an empty line, not {columns} columns")
    for _ in range(count):
        yield [""]


def _columns(found: int, wanted: int) -> str:
    return f"{found} column{'s' * (found != 1)}, but the first line names {wanted}"
