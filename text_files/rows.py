"""Reads the rows of a file of texts, part by part, in any format that `formats.detect` knows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from text_files.cells import Row, TypedTable, shown
from text_files.decoding import (
    HALF_PAIR,
    HEAD_BYTES,
    decoded,
    filled_lines,
    is_unicode,
    split_lines,
    unpacked,
)
from text_files.errors import MAX_CHARS, MAX_NAMES, BadFile, short
from text_files.formats import FileFormat, Hints, detect, places
from text_files.isolated import read_isolated
from text_files.json_rows import read_items, read_lines
from text_files.tables import read_table


@dataclass(eq=False)
class FileRows:
    """The rows of one file; iterate once.

    `format` is set as soon as the first row is read, and so are the `names` of a table's columns and the
    `places` of those that the hints want. `counted` sees the blocks after decompression. Raises BadFile for
    the first mistake.

    Typed tables are read from the `source`, and by another process without it. Their rows have only the
    columns that the hints want unless they are to be `whole`.
    """

    blocks: Iterable[bytes]
    filename: str
    hints: Hints
    counted: Callable[[Iterable[bytes]], Iterator[bytes]] = iter
    source: Path | BinaryIO | None = None
    whole: bool = True
    format: FileFormat | None = field(default=None, init=False)
    # TXT and JSON have no columns.
    names: tuple[str, ...] | None = field(default=None, init=False)
    places: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.column = self.hints.column
        self._name = json.dumps(self.column, ensure_ascii=False)

    def __iter__(self) -> Iterator[Row]:
        read, given = bytearray(), iter(self.blocks)
        for block in given:
            read += block
            if len(read) >= HEAD_BYTES:
                break
        head = bytes(read)
        self.format = form = detect(self.filename, head[:HEAD_BYTES], self.hints)
        blocks: Iterator[bytes] = chain([head], given)
        if form.typed:
            return self._isolated(blocks) if self.source is None else self._typed(self.source, form)
        if form.compression:
            blocks = self.counted(unpacked(blocks, form.compression))
        end = form.newline[-1]
        text = decoded(blocks, form.encoding, end)
        if form.name == "json":
            return (self._row(*item, unit="item") for item in read_items(text))
        if form.name == "ndjson":
            return (self._row(*line, unit="line") for line in read_lines(filled_lines(text, end)))
        if form.name == "txt":
            return _texts(filled_lines(text, end))
        return self._table(split_lines(text, end), form)

    def _typed(self, source: Path | BinaryIO, form: FileFormat) -> Iterator[Row]:
        with ExitStack() as stack:
            if isinstance(source, Path) and form.name == "xlsx":  # openpyxl leaves it open
                source = stack.enter_context(source.open("rb"))
            yield from self._typed_rows(_opened(source, form, self.hints), form)

    def _typed_rows(self, table: TypedTable, form: FileFormat) -> Iterator[Row]:
        self.names = tuple(table.names)
        self.places = self._placed(form, table.header)
        text = self.places[self.column]
        table.check(text)
        for part in table.parts(None if self.whole else sorted({*self.places.values()})):
            for at, (number, value) in enumerate(zip(part.numbers, part.column(text), strict=True)):
                if not is_unicode(found := shown(value)):
                    raise BadFile("string_unicode", HALF_PAIR, line=number)
                yield Row(number, found, part=part, at=at)

    def _isolated(self, blocks: Iterator[bytes]) -> Iterator[Row]:
        """The rows as another process reads them, which has no more memory than it needs."""
        with closing(read_isolated(self.filename, self.hints, blocks, whole=self.whole)) as lines:
            values = (json.loads(line) for line in split_lines(decoded(self.counted(lines), "utf-8")))
            names, places = next(values)
            self.names, self.places = tuple(names), places
            for number, text, cells in values:
                yield Row(number, text, cells)

    def _table(self, lines: Iterator[str], form: FileFormat) -> Iterator[Row]:
        rows = read_table(lines, form)
        first = next(rows, (1, []))
        names = first[1] if form.header else [str(number + 1) for number in range(len(first[1]))]
        self.names = tuple(names)
        self.places = self._placed(form, first[0])
        text = self.places[self.column]
        for number, row in rows if form.header else chain([first], rows):
            yield Row(number, row[text], row)

    def _placed(self, form: FileFormat, line: int | None) -> dict[str, int]:
        found = {column: self._place(column, form, line) for column in self.hints.wanted}
        others = {column: places(self.names or (), column) for column in self.hints.if_any if form.header}
        return {column: at[0] for column, at in others.items() if len(at) == 1} | found

    def _place(self, column: str, form: FileFormat, line: int | None) -> int:
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
        shown = tuple(name for name in short(names) if name.strip())
        note = f"; {form.note}" if form.note else ""
        if not form.header:
            message = f"without a header, columns are numbers, 1 to {len(names)}, but {column!r} is not"
        else:
            known = f"; the columns are {_listed(names)}" if any(names) else ": no column has a name"
            message = f"no column {column!r}{known}{note}{_like(names, column)}"
        raise BadFile("missing", message, line=line, columns=shown, wanted=column)

    def _row(self, number: int, value: Any, source: str, *, unit: str) -> Row:
        if isinstance(value, str):  # an object with that one field
            value, source = {self.column: value}, f"{{{self._name}: {source}}}"
        fields = value if isinstance(value, dict) else None
        text = None if fields is None else fields.get(self.column)
        if isinstance(text, str) and is_unicode(text):
            return Row(number, text, (), fields, source)
        names = None if fields is None else short([*fields])
        kind, message = "string_type", f"neither a string nor an object with a string {self.column!r}"
        if isinstance(text, str):
            kind, message, names = "string_unicode", HALF_PAIR, None
        elif fields is not None and self.column in fields:
            message = f"{self.column!r} is {_kind(text)} and not a string"
        elif names:
            message += f"; its fields are {_listed(names)}"
        where, line = (f"item {number}: ", None) if unit == "item" else ("", number)
        raise BadFile(kind, f"{where}{message}", line=line, columns=names, wanted=self.column)


def _kind(value: Any) -> str:
    named = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return named.get(type(value), "a number")


def _opened(source: Path | BinaryIO, form: FileFormat, hints: Hints) -> TypedTable:
    if form.name == "xlsx":
        from text_files.sheets import Sheet

        return Sheet(source, hints)
    from text_files.arrow import ArrowTable

    return ArrowTable(source, form.name)


def _texts(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        text = line.rstrip("\r\n")
        yield Row(number, text, (text,))


def _like(names: Sequence[str], column: str) -> str:
    # Comparing two names takes the square of their lengths.
    wanted = column.lower()
    near = {name.lower(): name for name in short(names)}
    close = difflib.get_close_matches(wanted[:MAX_CHARS], near, n=1)
    like = next((name for name in names if name.lower() == wanted), near[close[0]] if close else None)
    return f": did you mean {like!r}?" if like else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:MAX_CHARS]) for name in names[:MAX_NAMES])
    return shown + (", ..." if len(names) > MAX_NAMES else "")
