"""Reads CSV and TSV: RFC 4180 quotes or, where quotes are ordinary characters, none.

Every row must have as many columns as the first one: rows are never truncated or padded. An empty line is not
a row, except in a table of one column, where it is an empty text; at the end it never is one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from text_files.decoding import MAX_FIELD
from text_files.errors import BadFile
from text_files.formats import FileFormat

# The most columns of a table; spreadsheets have as many.
MAX_COLUMNS = 16 * 1024
# The limit of the csv module is that of the whole process; the one that holds here is that of a record.
csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))

# By the beginning of the message of the csv module.
_WITHOUT = "if quotes are ordinary characters in this file, read it without quotes"
_ADVICE = {
    "'\t' expected after": f"a quote inside of a field: {_WITHOUT}",
    "new-line character": (
        "a carriage return outside of quotes: lines end in LF or CRLF, and quotes enclose other line breaks"
    ),
    "unexpected end": "the file ends inside of a quoted field: a quote is not closed",
}
_JOINED = f"a field in quotes holds whole rows: {_WITHOUT}"
_LONG_RECORD = f"a record is longer than {MAX_FIELD} characters; perhaps a quote is not closed"


def read_table(lines: Iterable[str], form: FileFormat) -> Iterator[tuple[int, list[str]]]:
    """Yields every row and the line where it begins, the first one too. Raises BadFile for a bad row."""
    before = form.preamble.count(form.newline)
    record = _Record(islice(lines, before, None))
    quoting: Literal[0, 3] = csv.QUOTE_NONE if form.literal else csv.QUOTE_MINIMAL
    rows = csv.reader(record, delimiter=form.delimiter, strict=True, quoting=quoting)
    width, begins, empty = 0, before + 1, 0
    named = "names" if form.header else "has"
    try:
        for row in rows:
            record.begin()
            if not row:
                empty += 1
                continue
            if width == 1:
                yield from ((begins + number, [""]) for number in range(empty))
            begins, empty = begins + empty, 0
            if len(row) > MAX_COLUMNS:
                raise BadFile(
                    "too_long", f"{len(row)} columns, but a table may have {MAX_COLUMNS}", line=begins
                )
            width = width or len(row)
            if len(row) != width:
                kind = "missing" if len(row) < width else "extra_forbidden"
                found = f"{len(row)} column{'s' * (len(row) != 1)}, but the first line {named} {width}"
                raise BadFile(kind, found, line=begins)
            if form.delimiter == "\t" and begins < before + rows.line_num and _joins(row):
                raise BadFile("csv_invalid", _JOINED, line=begins)
            yield begins, row
            begins = before + rows.line_num + 1
    except csv.Error as error:
        raise BadFile("csv_invalid", _sentence(str(error)), line=begins + empty) from None
    except BadFile as error:
        if error.kind == "string_too_long":
            error.line = begins + empty
        raise


def _joins(row: list[str]) -> bool:
    """Whether the fields hold whole rows: for each line break, as many tabs as a row has."""
    breaks = sum(field.count("\n") for field in row)
    return len(row) > 1 and breaks > 0 and sum(field.count("\t") for field in row) == breaks * (len(row) - 1)


class _Record:
    """Yields lines to a csv.reader. Raises BadFile if one record takes more than MAX_FIELD characters."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._size = 0
        self._lines = lines

    def begin(self) -> None:
        """The next line begins another record."""
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._size += len(line)
            if self._size > MAX_FIELD:
                raise BadFile("string_too_long", _LONG_RECORD)
            yield line


def _sentence(message: str) -> str:
    """The error of the csv module as a sentence that says what to do."""
    advice = (part for beginning, part in _ADVICE.items() if message.startswith(beginning))
    return next(advice, message.replace("'\"'", "'\"': inside of quotes, a quote is written twice"))
