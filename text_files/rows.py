"""Reads the rows of a file of texts, block by block, in any format that `formats.detect` knows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from text_files.decoding import (
    HALF_PAIR,
    HEAD_BYTES,
    decoded,
    filled_lines,
    is_unicode,
    split_lines,
    unpacked,
)
from text_files.errors import BadFile
from text_files.formats import FileFormat, Hints, detect, places
from text_files.json_rows import Number, read_items, read_lines
from text_files.tables import read_table

# A message names at most so many columns, and this much of each name.
_MAX_NAMES = 20
_MAX_CHARS = 64


class Row(NamedTuple):
    """One row: the line (of a list in JSON: the item) where it begins, its text, and what else it has.

    `cells` are those of a table; `fields`, and its `source` as it is written, those of an object in JSON.
    """

    number: int
    text: str
    cells: Sequence[str] = ()
    fields: dict[str, Any] | None = None
    source: str = ""


class FileRows:
    """The rows of one file; iterate once.

    `format` is set as soon as the first row is read, and so are the `names` of a table's columns and the
    `places` of those that the hints want. `counted` sees the blocks after decompression. Raises BadFile for
    the first mistake.
    """

    def __init__(
        self,
        blocks: Iterable[bytes],
        filename: str,
        hints: Hints,
        counted: Callable[[Iterable[bytes]], Iterator[bytes]] = iter,
    ) -> None:
        self.format: FileFormat | None = None
        self._blocks = iter(blocks)
        self.filename = filename
        self._hints = hints
        self._counted = counted
        self.column = hints.column
        self._name = json.dumps(hints.column, ensure_ascii=False)
        # TXT and JSON have no columns.
        self.names: tuple[str, ...] | None = None
        self.places: dict[str, int] = {}

    def __iter__(self) -> Iterator[Row]:
        read = bytearray()
        for block in self._blocks:
            read += block
            if len(read) >= HEAD_BYTES:
                break
        head = bytes(read)
        self.format = form = detect(self.filename, head[:HEAD_BYTES], self._hints)
        blocks: Iterator[bytes] = chain([head], self._blocks)
        if form.compression:
            blocks = self._counted(unpacked(blocks, form.compression))
        text = decoded(blocks, form.encoding)
        if form.name == "json":
            return (self._row(*item, unit="item") for item in read_items(text))
        end = form.newline[-1]
        if form.name == "ndjson":
            return (self._row(*line, unit="line") for line in read_lines(filled_lines(text, end)))
        if form.name == "txt":
            return _texts(filled_lines(text, end))
        return self._table(split_lines(text, end), form)

    def _table(self, lines: Iterator[str], form: FileFormat) -> Iterator[Row]:
        rows = read_table(lines, form)
        first = next(rows, (1, []))
        names = first[1] if form.header else [str(number + 1) for number in range(len(first[1]))]
        self.names = tuple(names)
        self.places = {column: self._place(column, form, first[0]) for column in self._hints.wanted}
        text = self.places[self.column]
        for number, row in rows if form.header else chain([first], rows):
            yield Row(number, row[text], row)

    def _place(self, column: str, form: FileFormat, line: int) -> int:
        """The index of a column. Without a header, a table of one column has only one choice."""
        names = self.names or ()
        if not form.header and len(names) == 1 and column == self.column:
            return 0
        found = places(names, column)
        if len(found) == 1:
            return found[0]
        if found:
            message = f"{len(found)} columns are named {column!r}: name one by its number, "
            raise BadFile("duplicate_key", f"{message}{found[0] + 1} or {found[1] + 1}", line=line)
        shown = tuple(name for name in _short(names) if name.strip())
        note = f"; {form.note}" if form.note else ""
        if not form.header:
            message = f"without a header, columns are numbers, 1 to {len(names)}, but {column!r} is not"
        else:
            message = f"no column {column!r}; the columns are {_listed(names)}{note}{_like(names, column)}"
        raise BadFile("missing", message, line=line, columns=shown, wanted=column)

    def _row(self, number: int, value: Any, source: str, *, unit: str) -> Row:
        if isinstance(value, str):  # an object with that one field
            value, source = {self.column: value}, f"{{{self._name}: {source}}}"
        fields = value if isinstance(value, dict) else None
        text = None if fields is None else fields.get(self.column)
        if isinstance(text, str) and is_unicode(text):
            return Row(number, text, (), fields, source)
        names = None if fields is None else _short([*fields])
        kind, message = "string_unicode", HALF_PAIR
        if not isinstance(text, str):
            known = f"; its fields are {_listed(names)}" if names else ""
            kind, message = (
                "string_type",
                f"neither a string nor an object with a string {self.column!r}{known}",
            )
        where, line = (f"item {number}: ", None) if unit == "item" else ("", number)
        raise BadFile(kind, f"{where}{message}", line=line, columns=names, wanted=self.column)


def cell(value: Any) -> str | None:
    """What a table has for a value in JSON; None for those that only their source shows."""
    if isinstance(value, Number):
        return value.written
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def _texts(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        text = line.rstrip("\r\n")
        yield Row(number, text, (text,))


def _like(names: Sequence[str], column: str) -> str:
    # Comparing two names takes the square of their lengths.
    wanted = column.lower()
    near = {name.lower(): name for name in _short(names)}
    close = difflib.get_close_matches(wanted[:_MAX_CHARS], near, n=1)
    like = next((name for name in names if name.lower() == wanted), near[close[0]] if close else None)
    return f": did you mean {like!r}?" if like else ""


def _short(names: Sequence[str]) -> tuple[str, ...]:
    """The names that an error offers as a choice."""
    return tuple(name for name in names[:_MAX_NAMES] if len(name) <= _MAX_CHARS)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:_MAX_CHARS]) for name in names[:_MAX_NAMES])
    return shown + (", ..." if len(names) > _MAX_NAMES else "")
