"""Finds out what a file of texts contains, from its name and its first bytes. No I/O."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal, get_args

from text_files.decoding import HEAD_BYTES, MARK, Compression, compression_of, unpacked_head
from text_files.errors import BadFile
from text_files.typed import TYPED, require, typed_format

FormatName = Literal["csv", "tsv", "ndjson", "json", "txt", "parquet", "arrow", "xlsx"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
SUFFIXES: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".txt": "txt",
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Python has codecs that are not for files, and some whose time is not proportional to the length.
_known_encoding = re.compile(
    r"utf-?8(-sig)?|utf-?(16|32)(-?[lb]e)?|(windows|cp)-?(125\d|437|8\d\d|9\d\d)|iso-?8859-\d+|latin-?1"
    r"|(us-)?ascii|mac(intosh|-?roman)|s(hift)?-?jis|euc-?(jp|kr)|gbk?(2312|18030)?|big5|koi8-[ru]"
).fullmatch
_code_page = re.compile("^(windows|cp)-?")
# That of UTF-32 begins with that of UTF-16.
_TEXT_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The first bytes of common files that are not text, and what to do about it.
_OTHER_FILES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "an office document or a ZIP archive: unpack it, or save it as XLSX or CSV",
    b"\xd0\xcf\x11\xe0": "an old office document, or one with a password: save it as XLSX or CSV",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"FEA1": "a file of Feather 1: save it as Feather 2 or Parquet",
    b"SQLite format 3": "an SQLite database",
    b"BZh": "compressed with bzip2: decompress it, or use gzip or zstd",
    b"\xfd7zXZ": "compressed with xz: decompress it, or use gzip or zstd",
}


_HTML = re.compile(r"\s*<(!doctype html|html|\?xml)[\s>]", re.IGNORECASE).match
_compressed = re.compile(r"\.(gz|zst)$", re.IGNORECASE)
# How many rows of a table say what it is like, and how many of them must agree on what looks like one.
_ROWS, _ALIKE = 20, 3
# How many lines before the header are skipped at most.
_PREAMBLE = 100
# Blank lines, also those that spreadsheets write for an empty row.
_blank = re.compile(r'([\s,;|]|"")*').fullmatch
# How JSON begins, and not a log, which may have [12:00] or [INFO] there.
_json = re.compile(
    r'\s*(\{\s*(["}]|$)|\[\s*(["{\[\]]|$|(-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false|null)\s*([,\]]|$)))'
).match
_objects = re.compile(r'\s*+(\[\s*+)?\{\s*+"').match
# An object with a list, in place of one for each line.
_wrapped = re.compile(r'\{\s*"[^"]*"\s*:\s*\[').match
# The line that names the delimiter for Excel.
_sep = re.compile(r'"?sep=([^\w"\r])"?\r?', re.IGNORECASE).fullmatch
_number = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*").fullmatch


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How to read a file, and what its results are written like.

    Of tables: `preamble`, the lines before the header; `literal`, whether quotes are ordinary characters;
    `quoted`, whether all fields are in quotes. `mark` is whether there is a byte order mark, and `note` what
    the user should know about the guess: if the first line may be a row, `headerless` is the number of the
    column that holds the texts, else 0.
    """

    name: FormatName
    delimiter: str = ""
    encoding: str = "utf-8"
    compression: Compression = ""
    header: bool = True
    literal: bool = False
    preamble: str = field(default="", compare=False)
    quoted: bool = field(default=False, compare=False)
    newline: str = field(default="\n", compare=False)
    mark: bool = field(default=False, compare=False)
    note: str = field(default="", compare=False)
    headerless: int = field(default=0, compare=False)

    @property
    def table(self) -> bool:
        """Whether it has columns and not fields or lines."""
        return self.name in ("csv", "tsv") or self.typed

    @property
    def typed(self) -> bool:
        """Whether its cells have types, and it is not text."""
        return self.name in TYPED

    def __str__(self) -> str:
        if self.typed:
            return TYPED[self.name][0] + ("" if self.header else ", without a header")
        parts = [self.name.upper()]
        if self.delimiter:
            by = DELIMITERS.get(self.delimiter, repr(self.delimiter))
            parts.append(f"separated by {by}")
        if not self.header:
            parts.append("without a header")
        if self.literal:
            parts.append("without quotes")
        parts.append(self.encoding.upper())
        return ", ".join([*parts, self.compression] if self.compression else parts)


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user says about a file; what is not given is detected.

    `column` holds the texts, `also` names the columns that are needed besides, and `if_any` others that are
    read where the file has them once. Without a `header`, they are
    numbers from 1. `quotes` says whether fields of a table may be in quotes.
    """

    column: str = "text"
    format: FormatName | None = None
    delimiter: str | None = None
    encoding: str | None = None
    header: bool = True
    quotes: bool | None = None
    also: tuple[str, ...] = ()
    if_any: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """All columns that are needed."""
        return (self.column, *self.also)


def stem(filename: str) -> str:
    """A name without the suffix of its compression."""
    return _compressed.sub("", filename)


def _suffix(filename: str) -> str:
    return PurePath(stem(filename).lower()).suffix


def detect(filename: str, head: bytes, hints: Hints = Hints()) -> FileFormat:
    """The format of a file that begins with `head`: its hints, else its suffix, else its content.

    Raises BadFile if it is empty or not text.
    """
    if form := _typed(filename, head, hints):
        return form
    if compression := compression_of(head):
        content = unpacked_head(head, compression)
        if _typed(filename, content, hints):
            raise BadFile("not_text", "a table that is compressed as a whole: decompress it")
        found = _detect(filename, content, hints, len(head) < HEAD_BYTES)
        return replace(found, compression=compression)
    return _detect(filename, head, hints, complete=True)


def _typed(filename: str, head: bytes, hints: Hints) -> FileFormat | None:
    """The format of a file that is not text. Raises BadFile if what reads it is not installed."""
    wanted, name = hints.format or "", typed_format(_suffix(filename), head)
    if wanted in TYPED and name != wanted:
        raise BadFile("format", f"not a file of {TYPED[wanted][0]}")
    form = next((one for one in FORMATS if one == name), None)
    if form is None or wanted not in ("", form):
        return None
    require(form)
    return FileFormat(form, header=hints.header or form != "xlsx")


def _detect(filename: str, head: bytes, hints: Hints, complete: bool) -> FileFormat:
    if not head:
        raise BadFile("missing", "the file is empty")
    encoding = _encoding(head, hints)
    try:
        start = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix(MARK)
    except UnicodeError:
        advice = f"name {encoding}-le or {encoding}-be, the order of its bytes"
        raise BadFile("encoding", f"{encoding.upper()} without a byte order mark: {advice}") from None
    _refuse_html(filename, start, hints)
    found = _Start(filename, start, hints, complete=complete and len(head) < HEAD_BYTES)
    mark = head.startswith(tuple(_TEXT_MARKS))
    return replace(found.format(wide=encoding.startswith("utf-16")), encoding=encoding, mark=mark)


def places(names: Sequence[str], column: str) -> list[int]:
    """The indices of a column by its name, else by its name without spaces, else by its number, from 1."""
    found = [at for at, name in enumerate(names) if name == column]
    found = found or [at for at, name in enumerate(names) if name.strip() == column]
    numbered = column.isascii() and column.isdecimal() and len(column) < 6
    return found or ([int(column) - 1] if numbered and 0 < int(column) <= len(names) else [])


def _refuse_html(filename: str, start: str, hints: Hints) -> None:
    """Some programs export a page or XML under the name of a spreadsheet."""
    spreadsheet = _suffix(filename) in (".xls", ".xlsx", ".html", ".htm")
    if hints.format is None and (_HTML(start) or (spreadsheet and start.lstrip().startswith("<"))):
        advice = "open it in a spreadsheet program and save it as CSV"
        raise BadFile("not_text", f"not a file of texts but an HTML or XML page: {advice}")


class _Start:
    """The first characters of a file, from which its format is guessed."""

    def __init__(self, filename: str, start: str, hints: Hints, complete: bool) -> None:
        self._filename = filename
        self._hints = hints
        self._tried = hints.delimiter or "".join(DELIMITERS)
        at = start.find("\n")
        self._newline = "\r\n" if at > 0 and start[at - 1] == "\r" else "\n"
        if at < 0 and "\r" in (start if complete else start[:-1]):  # CRLF may be cut in two
            self._newline = "\r"
        self._whole = start
        self._complete = complete
        self._preamble, self._separator = self._skipped()
        self._text = start[len(self._preamble) :]

    def format(self, wide: bool) -> FileFormat:
        """The format, without its encoding. `wide`: in UTF-16, Excel saves tables with tabs as .txt."""
        name = self._hints.format or self._by_name(wide)
        if name not in ("csv", "tsv"):
            note, headerless = self._lines_note() if name == "txt" else ("", 0)
            return FileFormat(name, newline=self._newline, note=note, headerless=headerless)
        delimiter = self._hints.delimiter or self._separator or ("\t" if name == "tsv" else self._delimiter())
        names = self._header(delimiter)
        note, headerless = self._header_note(delimiter, names)
        first = io.StringIO(newline="")
        writer = csv.writer(first, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=self._newline)
        writer.writerows(_rows(self._text, delimiter, 2))
        return FileFormat(
            name,
            delimiter,
            header=self._hints.header,
            literal=self._literal(delimiter),
            preamble=self._preamble,
            quoted=bool(names) and self._text.startswith(first.getvalue().rstrip("\r\n")),
            newline=self._newline,
            note=note,
            headerless=headerless,
        )

    def _by_name(self, wide: bool) -> FormatName:
        """By the suffix, if the content is not of another kind."""
        name = SUFFIXES.get(_suffix(self._filename))
        if name is None:
            return self._by_content(wide)
        if name == "txt":
            return "csv" if self._separator or self._hints.delimiter else self._if_tabs(wide)
        table = name == "ndjson" or not _objects(self._whole) or self._named(self._header(self._delimiter()))
        return name if table and name != "json" else self._json_kind() or "json"

    def _lines(self) -> list[str]:
        return self._text.split(self._newline)

    def _skipped(self) -> tuple[str, str]:
        """The lines before the header, which are not rows, and the delimiter that one of them names."""
        separator, size = "", 0
        lines = self._whole.split(self._newline, _PREAMBLE)
        comments = self._comments(lines)
        for line in lines[:-1]:
            if (sep := _sep(line)) and not separator:
                separator = sep[1]
            elif not self._hints.header or not (_blank(line) or (comments and line.startswith("#"))):
                break
            size += len(line) + len(self._newline)
        return self._whole[:size], separator

    def _comments(self, lines: list[str]) -> bool:
        """Whether lines that begin with # are comments: only a line behind them names the columns."""
        first = next((at for at, line in enumerate(lines) if not _blank(line) and not _sep(line)), len(lines))
        rest = (at for at in range(first, len(lines)) if lines[at][:1] != "#" and not _blank(lines[at]))
        texts = (self._newline.join(lines[at:]) for at in (first, next(rest, first)))
        one, other = (max(self._named(_first(text, by)) for by in self._tried) for text in texts)
        return one < other

    def _named(self, names: Sequence[str]) -> int:
        return sum(bool(places(names, column)) for column in self._hints.wanted)

    def _header(self, delimiter: str) -> list[str]:
        return _first(self._text, delimiter)

    def _by_content(self, wide: bool) -> FormatName:
        """NDJSON, JSON or a table with the wanted column if the first line is one; else plain text."""
        if self._separator or self._hints.delimiter:
            return "csv"
        if not self._hints.header:
            return "tsv" if self._delimiter() == "\t" else "csv"
        if kind := self._json_kind():
            return kind
        delimiter = self._delimiter()
        names = self._header(delimiter)
        if self._named(names) and (len(names) > 1 or names == [self._hints.column]):
            return "tsv" if delimiter == "\t" else "csv"
        return self._if_tabs(wide)

    def _json_kind(self) -> Literal["ndjson", "json"] | None:
        """NDJSON also of a file named .json, as datasets and pandas write it; None for what is not JSON."""
        text = self._whole.lstrip()
        first, _, rest = text.partition(self._newline)
        value = None
        with suppress(ValueError, RecursionError):
            value = json.loads(first)
        if not _json(text) and (not isinstance(value, str) or value == self._hints.column):
            return None
        own = value.get(self._hints.column) if isinstance(value, dict) else value
        cut = "" if rest or self._complete or _wrapped(text) else text
        more = rest.lstrip() if isinstance(value, dict) else cut
        return "ndjson" if isinstance(own, str) or more.startswith("{") else "json"

    def _if_tabs(self, wide: bool) -> FormatName:
        """A table that Excel has saved as text, which names the column or is in UTF-16; else plain text."""
        rows = _rows(self._text, "\t")
        even = len({len(row) for row in rows}) == 1 and (wide or not self._hints.header)
        if rows and len(rows[0]) > 1 and (even or self._hints.column in rows[0]):
            return "tsv"
        return "txt" if self._hints.header else "csv"

    def _delimiter(self) -> str:
        """The one under which the first line names the columns; else the one that makes the most of them."""
        if self._hints.header:
            names = {one: self._header(one) for one in self._tried}
            return max(self._tried, key=lambda one: (self._named(names[one]), len(names[one])))
        widths = {one: [len(row) for row in _rows(self._text, one)] for one in self._tried}
        return max(
            self._tried, key=lambda one: (len({*widths[one]}) == 1 and widths[one][0], widths[one][:1])
        )

    def _literal(self, delimiter: str) -> bool:
        """Whether quotes are ordinary characters: as the user says, else in tables that only so are even."""
        if self._hints.quotes is not None:
            return not self._hints.quotes
        if delimiter != "\t" or '"' not in self._text:
            return False
        lines = self._lines() if self._complete else self._lines()[:-1]
        text = self._newline.join(lines)
        even = {line.count("\t") for line in lines if line.strip("\r")}
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
        except csv.Error:
            return len(even) == 1
        filled = [len(row) for row in rows if row]
        # With the same number of tabs in all lines, a quoted line break has joined two rows.
        joined = even != {0} and len(filled) < sum(bool(line.strip("\r")) for line in lines)
        return len(even) == 1 and (len({*filled}) > 1 or joined)

    def _header_note(self, delimiter: str, names: Sequence[str]) -> tuple[str, int]:
        """What to do if the first line does not name the columns and looks like a row."""
        if not self._hints.header or self._named(names) == len(self._hints.wanted):
            return "", 0
        rows = [row for row in _rows(self._text, delimiter)[1:] if len(row) == len(names)]
        alike = any(_number(name) or len(name.split()) > _ALIKE for name in names)
        if not alike and not any(name and name == row[at] for row in rows for at, name in enumerate(names)):
            return "", 0
        return _without_header("the first line looks like a row", [list(names), *rows])

    def _lines_note(self) -> tuple[str, int]:
        """What to do if lines of text look like JSON or the rows of a table."""
        if _objects(self._whole):
            return "the lines look like JSON: if so, choose the format NDJSON", 0
        lines = [line for line in self._lines()[:_ROWS] if line.strip()]
        for delimiter in ("\t", "|", ";", ","):
            rows = _rows(self._text, delimiter)
            widths = {len(row) for row in rows}
            if max(widths, default=0) > 1 and self._named(rows[0]):
                return (
                    f"the first line names a column {self._hints.column!r}: if so, choose the format CSV",
                    0,
                )
            if len(widths) == 1 and max(widths) > 1 and len(lines) >= (1 if delimiter == "\t" else _ALIKE):
                return _without_header("the lines look like rows of a table", rows)
        return "", 0


def _without_header(seen: str, rows: Sequence[Sequence[str]]) -> tuple[str, int]:
    """What to do, and the number of the column with the longest cells."""
    columns = len(rows[0])
    longest = max(range(columns), key=lambda at: sum(len(row[at]) for row in rows))
    return f"{seen}: if so, choose a column by its number, 1 to {columns}, without a header", longest + 1


def _first(text: str, delimiter: str) -> list[str]:
    """The fields of the first record, which may have several lines."""
    return next(iter(_rows(text, delimiter, 1)), [])


def _rows(text: str, delimiter: str, most: int = _ROWS) -> list[list[str]]:
    """The first records that are not empty."""
    found: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if row:
                found.append(row)
            if len(found) == most:
                break
    except csv.Error:  # such as a carriage return inside: reading the rows reports it
        pass
    return found


def _checked(encoding: str) -> str:
    """The normal name of an encoding. Raises BadFile for an unknown one."""
    name = encoding.lower().replace("_", "-").removeprefix("x-")
    with suppress(LookupError):
        if _known_encoding(name):
            return codecs.lookup(_code_page.sub("cp", name.removesuffix("-sig"))).name
    raise BadFile("encoding", f"unknown encoding {encoding!r}; known are e.g. utf-8, utf-16, windows-1252")


def _encoding(head: bytes, hints: Hints) -> str:
    """The encoding by its byte order mark, else as named, else UTF-8. Raises BadFile for what is not text."""
    named = _checked(hints.encoding) if hints.encoding else ""
    marked = next((encoding for mark, encoding in _TEXT_MARKS.items() if head.startswith(mark)), "")
    if marked or named:
        return marked or named
    for magic, what in _OTHER_FILES.items():
        if head.startswith(magic):
            raise BadFile("not_text", f"not a text file but {what}")
    if b"\0" in head:
        raise BadFile("not_text", f"not a text file: it contains NUL bytes{_if_utf16(head)}")
    return "utf-8"


def _if_utf16(head: bytes) -> str:
    """What to do about a file that looks like UTF-16: in Latin letters, every second byte is NUL."""
    for first, encoding in enumerate(("utf-16-be", "utf-16-le")):
        zeros = head[first : len(head) // 2 * 2 : 2].count(0)
        if 4 * zeros > len(head) > 1 and head[1 - first :: 2].count(0) == 0:
            return f"; if it is UTF-16 without a byte order mark, name the encoding {encoding}"
    return ""
