"""Detects what a file of texts contains, from its name and its first bytes. No I/O.

`millrace classify` and `POST /jobs?filename=` use it, so both read a file in the same way or refuse it.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, get_args

FormatName = Literal["csv", "tsv", "ndjson", "json", "txt"]
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
# How many bytes of a file, after decompression, `detect` looks at.
HEAD_BYTES = 64 * 1024
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Python has codecs that are not for files, and some whose time is not proportional to the length.
_known_encoding = re.compile(
    r"utf-?8|utf-?16(-?[lb]e)?|(windows|cp)-?125\d|iso-?8859-\d+|latin-?1|ascii|shift_jis|euc[-_](jp|kr)|gb18030|big5|koi8-r",
    re.IGNORECASE,
).fullmatch
_GZIP = b"\x1f\x8b"
# The byte order mark, once it is decoded.
MARK = "\ufeff"
_TEXT_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# The first bytes of common files that are not text, and what to do about it.
_OTHER_FILES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a spreadsheet, an office document or a ZIP archive: save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or office document: save it as CSV",
    b"PAR1": "a Parquet file: save it as CSV or NDJSON",
    b"ARROW1": "an Arrow file: save it as CSV or NDJSON",
    b"SQLite format 3": "an SQLite database",
    b"BZh": "compressed with bzip2: decompress it, or use gzip",
    b"\xfd7zXZ": "compressed with xz: decompress it, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: decompress it, or use gzip",
}


class BadFile(ValueError):
    """A file that cannot be read: a stable type, a message, and where they apply its line and columns."""

    def __init__(
        self, kind: str, message: str, *, line: int | None = None, columns: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line
        self.columns = columns


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How to read a file. `delimiter` applies to csv and tsv only."""

    name: FormatName
    delimiter: str = ""
    encoding: str = "utf-8"
    gzipped: bool = False

    def __str__(self) -> str:
        parts = [self.name.upper()]
        if self.delimiter:
            by = DELIMITERS.get(self.delimiter, repr(self.delimiter))
            parts.append(f"separated by {by}")
        parts.append(self.encoding.upper())
        return ", ".join([*parts, "gzip"] if self.gzipped else parts)


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user says about a file; what is not given is detected. `column` holds the texts."""

    column: str = "text"
    format: FormatName | None = None
    delimiter: str | None = None
    encoding: str | None = None


def by_suffix(filename: str) -> FormatName | None:
    """The format that the last suffix of a name stands for, without `.gz`."""
    return SUFFIXES.get(PurePath(filename.lower().removesuffix(".gz")).suffix)


def detect(filename: str, head: bytes, hints: Hints = Hints()) -> FileFormat:
    """The format of a file that begins with `head`: its hints, else its suffix, else its content.

    Raises BadFile if it is empty or not text.
    """
    if head.startswith(_GZIP):
        return replace(detect(filename, _unzipped(head), hints), gzipped=True)
    if not head:
        raise BadFile("missing", "the file is empty")
    encoding = _checked(hints.encoding) if hints.encoding else _encoding(head)
    try:
        start = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix(MARK)
    except UnicodeError:
        advice = "name utf-16-le or utf-16-be, the order of its bytes"
        raise BadFile("encoding", f"{encoding.upper()} without a byte order mark: {advice}") from None
    name = hints.format or by_suffix(filename) or _by_content(start, hints)
    if name not in ("csv", "tsv"):
        return FileFormat(name, "", encoding)
    delimiter = hints.delimiter or ("\t" if name == "tsv" else _delimiter(start, hints.column))
    return FileFormat(name, delimiter, encoding)


def _checked(encoding: str) -> str:
    """The normal name of an encoding. Raises BadFile for an unknown one."""
    if not _known_encoding(encoding):
        raise BadFile(
            "encoding", f"unknown encoding {encoding!r}; known are e.g. utf-8, utf-16, windows-1252"
        )
    try:
        return codecs.lookup(encoding.replace("windows-", "cp")).name
    except LookupError:
        raise BadFile("encoding", f"unknown encoding {encoding!r}") from None


def _unzipped(head: bytes) -> bytes:
    try:
        content = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        raise BadFile("gzip_invalid", "damaged gzip file") from None
    if content.startswith(_GZIP):
        raise BadFile("not_text", "not a text file: it is compressed twice")
    return content


def _encoding(head: bytes) -> str:
    """The encoding by its byte order mark, else UTF-8. Raises BadFile for what is not text."""
    for mark, encoding in _TEXT_MARKS.items():
        if head.startswith(mark):
            return encoding
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


def _by_content(start: str, hints: Hints) -> FormatName:
    """NDJSON, JSON or a table with the wanted column if the first line is one; else plain text."""
    first = start.lstrip().partition("\n")[0].strip()
    if first.startswith(("{", "[", '"')):
        try:
            value = json.loads(first)
        except (ValueError, RecursionError):
            return "txt" if first.startswith('"') else "json"
        if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get(hints.column), str)):
            return "ndjson"
        return "json"
    delimiter = _delimiter(first, hints.column)
    columns = _columns(first, delimiter)
    if hints.column in columns and len(columns) > 1:
        return "tsv" if delimiter == "\t" else "csv"
    return "txt"


def _delimiter(start: str, column: str) -> str:
    """The delimiter under which the first line names `column`; else the one that makes the most columns."""
    first = start.partition("\n")[0]

    def rank(delimiter: str) -> tuple[bool, int]:
        columns = _columns(first, delimiter)
        return column in columns, len(columns)

    return max(DELIMITERS, key=rank)


def _columns(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
    except csv.Error:  # such as a carriage return inside: reading the rows reports it
        return []
