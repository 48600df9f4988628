"""Reads the rows of a file of texts, block by block, in any format that `file_format.detect` knows."""

from __future__ import annotations

import codecs
import difflib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from api.asgi.json_reader import HALF_PAIR, MAX_FIELD, is_unicode
from api.jobs.csv_rows import BadTable, read_table
from api.jobs.file_format import HEAD_BYTES, MARK, BadFile, FileFormat, Hints, detect

Row = dict[str, Any]
_DECODER = json.JSONDecoder()
_space = re.compile(r"[ \t\r\n]*").match
_LIST = 'expected a list of texts or objects, or {"text": [...]}; one object per line is NDJSON'
# Compressed bytes that are given to the decoder at once.
PACKED_BYTES = 16 * 1024
# A message names at most so many columns, and this much of each name.
_MAX_NAMES = 20
_MAX_CHARS = 64


class FileRows:
    """The rows of one file, each a dict in which `column` holds the text; iterate once.

    `format` is set as soon as the first row is read. `counted` sees the blocks after decompression. Raises
    BadFile for the first mistake.
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
        self._filename = filename
        self._hints = hints
        self._counted = counted
        # TXT and JSON lists of strings have no columns.
        self.column = hints.column
        self.names: tuple[str, ...] | None = None

    def __iter__(self) -> Iterator[Row]:
        read = bytearray()
        for block in self._blocks:
            read += block
            if len(read) >= HEAD_BYTES:
                break
        head = bytes(read)
        self.format = detect(self._filename, head[:HEAD_BYTES], self._hints)
        blocks: Iterator[bytes] = chain([head], self._blocks)
        if self.format.gzipped:
            blocks = self._counted(_unzipped(blocks))
        text = _decoded(blocks, self.format.encoding)
        reader = {
            "csv": self._table,
            "tsv": self._table,
            "ndjson": self._ndjson,
            "json": self._json,
            "txt": self._txt,
        }[self.format.name]
        return reader(text)

    def _table(self, text: Iterator[str]) -> Iterator[Row]:
        assert self.format is not None, "the format is detected first"
        rows = read_table(_lines(text), self.format.delimiter)
        try:
            names = next(rows)
            self.names = tuple(names)
            if self.column not in names:
                raise BadFile("missing", self._no_column(names), line=1, columns=_short(names))
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise BadFile("duplicate_key", f"two columns are named {min(twice)!r}; rename one", line=1)
            for row in rows:
                yield dict(zip(names, row, strict=True))
        except BadTable as error:
            raise BadFile(error.kind, str(error), line=error.line) from None

    def _no_column(self, names: list[str]) -> str:
        # Comparing two names takes the square of their lengths.
        wanted = self.column.lower()
        near = {name.lower(): name for name in _short(names)}
        close = difflib.get_close_matches(wanted[:_MAX_CHARS], near, n=1)
        like = next((name for name in names if name.lower() == wanted), near[close[0]] if close else None)
        found = _listed(names)
        hint = f": did you mean {like!r}?" if like else ""
        return f"no column {self.column!r}; the columns are {found}{hint}"

    def _ndjson(self, text: Iterator[str]) -> Iterator[Row]:
        for number, line in enumerate(_lines(text), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise BadFile("json_invalid", "not valid JSON", line=number) from None
            yield self._row(value, "line", number)

    def _json(self, text: Iterator[str]) -> Iterator[Row]:
        """Reads `{"text": [...]}`, or a list of strings or objects, one item at a time."""
        source = _Json(text)
        if source.skip("{"):
            if source.value() != "text" or not source.skip(":"):
                raise BadFile("model_type", _LIST)
            wrapped = True
        else:
            wrapped = False
        if not source.skip("["):
            raise BadFile("list_type", _LIST)
        number = 0
        while not source.skip("]"):
            if number and not source.skip(","):
                raise BadFile("json_invalid", f"item {number + 1}: expected a comma or a closing bracket")
            number += 1
            yield self._row(source.value(number), "item", number)
        if (wrapped and not source.skip("}")) or not source.at_end():
            raise BadFile("json_invalid", "unexpected data after the list")

    def _row(self, value: Any, unit: str, number: int) -> Row:
        row = {self.column: value} if isinstance(value, str) else value
        text = row.get(self.column) if isinstance(row, dict) else None
        names = _short([*row]) if isinstance(row, dict) else None
        if isinstance(text, str) and is_unicode(text):
            return row
        if isinstance(text, str):
            message = HALF_PAIR
        else:
            fields = f"; its fields are {_listed(names)}" if names else ""
            message = f"neither a string nor an object with a string {self.column!r}{fields}"
        if unit == "line":
            raise BadFile("string_type", message, line=number, columns=names)
        raise BadFile("string_type", f"item {number}: {message}", columns=names)

    def _txt(self, text: Iterator[str]) -> Iterator[Row]:
        for line in _lines(text):
            if line.strip():
                yield {self.column: line.rstrip("\r\n")}


class _Json:
    """JSON as it arrives. Only the item that is read, and a block, are kept."""

    def __init__(self, parts: Iterator[str]) -> None:
        self._parts = parts
        self._buffer = ""
        self._at = 0

    def skip(self, token: str) -> bool:
        """Consumes a character if it comes next, and returns whether it did."""
        if self.at_end() or self._buffer[self._at] != token:
            return False
        self._at += 1
        return True

    def at_end(self) -> bool:
        while True:
            space = _space(self._buffer, self._at)
            assert space is not None, "it also matches the empty string"
            self._at = space.end()
            if self._at < len(self._buffer):
                return False
            if not self._more(0):
                return True

    def value(self, number: int = 0) -> Any:
        """Consumes a string or an object. Reads as much again before each retry."""
        while not self.at_end():
            try:
                value, self._at = _DECODER.raw_decode(self._buffer, self._at)
            except RecursionError:
                break
            except ValueError:
                left = len(self._buffer) - self._at
                if left > MAX_FIELD or not self._more(left):
                    break
                continue
            return value
        raise BadFile("json_invalid", f"item {number}: not valid JSON" if number else _LIST)

    def _more(self, least: int) -> bool:
        """Reads at least so many characters. Returns False at the end of the file."""
        parts = [self._buffer[self._at :]]
        size = 0
        for part in self._parts:
            parts.append(part)
            size += len(part)
            if size > least:
                break
        self._buffer = "".join(parts)
        self._at = 0
        return size > 0


def _short(names: Sequence[str]) -> tuple[str, ...]:
    """The names that an error offers as a choice."""
    return tuple(name for name in names[:_MAX_NAMES] if len(name) <= _MAX_CHARS)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:_MAX_CHARS]) for name in names[:_MAX_NAMES])
    return shown + (", ..." if len(names) > _MAX_NAMES else "")


def _unzipped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompresses in parts of at most HEAD_BYTES, also several gzip members and zeros behind them."""
    decoder = zlib.decompressobj(wbits=31)
    try:
        for rest in _split(blocks):
            while rest := rest.lstrip(b"\0") if decoder.eof else rest:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=31)
                yield decoder.decompress(rest, HEAD_BYTES)
                rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error:
        raise BadFile("gzip_invalid", "damaged gzip file") from None
    if not decoder.eof:
        raise BadFile("gzip_invalid", "the gzip file ends too early")


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The decoder copies what is behind a member, which may have 21 bytes."""
    for block in blocks:
        yield from (block[at : at + PACKED_BYTES] for at in range(0, len(block), PACKED_BYTES))


def _decoded(blocks: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    line, begun = 1, encoding in ("utf-8", "utf-16")  # these decoders remove the byte order mark
    for block, final in chain(((block, False) for block in blocks), [(b"", True)]):
        try:
            text = decoder.decode(block, final)
            if text and not begun:
                text = text.removeprefix(MARK)
                begun = True
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise BadFile("string_unicode", f"not valid {encoding.upper()}", line=line) from None
        line += text.count("\n")
        yield text


def _lines(parts: Iterator[str]) -> Iterator[str]:
    """Splits at \\n only, and keeps it: a carriage return may be part of a CSV field."""
    number = 1
    rest = ""
    for text in parts:
        *lines, tail = text.split("\n")
        for line in lines:
            yield f"{rest}{line}\n"
            number += 1
            rest = ""
        rest += tail
        if len(rest) > MAX_FIELD:
            raise BadFile("string_too_long", f"longer than {MAX_FIELD} characters", line=number)
    if rest:
        yield rest
