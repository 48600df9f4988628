"""Texts out of the body of a job, one by one, while it arrives: JSON, NDJSON or CSV. Plain generators.

Each takes an iterator of byte blocks, holds no more than a block and a text at a time, and raises Problem 422
with the line (JSON: the place in the list) where the body stops making sense. csv is the standard library's.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from api.errors import Problem

Reader = Callable[[Iterable[bytes]], Iterator[str]]

# Longest line of NDJSON, field of CSV or string of JSON, in characters. A text that is merely longer than
# this service takes becomes an entry with an error; one beyond this is no text.
MAX_FIELD = 1024 * 1024
csv.field_size_limit(MAX_FIELD)

_space = re.compile(r"[ \t\r\n]*").match
_string = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\.)*+"').match


def read_ndjson(blocks: Iterable[bytes]) -> Iterator[str]:
    """One JSON string, or one object with the string `text`, a line. Empty lines count, but hold no text."""
    for number, line in enumerate(_lines(blocks), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _invalid("json_invalid", "not valid JSON", number) from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            message = 'expected a JSON string, or an object with the string "text"'
            raise _invalid("string_type", message, number)
        yield _encodable(text, number)


def read_csv(blocks: Iterable[bytes]) -> Iterator[str]:
    """The column `text`. The first line names the columns."""
    rows = csv.reader(_lines(blocks), strict=True)
    try:
        names = next(rows, [])
        if names.count("text") != 1:
            raise _invalid("missing", 'the first line must name one column "text"', 1)
        column = names.index("text")
        for row in rows:
            if not row:
                continue
            if len(row) <= column:
                raise _invalid("missing", f"only {len(row)} of {len(names)} columns", rows.line_num)
            yield row[column]
    except csv.Error as error:
        raise _invalid("csv_invalid", str(error), rows.line_num) from None


def read_json(blocks: Iterable[bytes]) -> Iterator[str]:
    """`{"text": ["...", ...]}`: nothing else may stand in the object."""
    source = _Characters(blocks)
    source.take("{", 'expected an object: {"text": [...]}')
    if source.string("expected the name of a field") != "text":
        raise _invalid("extra_forbidden", 'only the field "text" may be given')
    source.take(":", 'expected ":"')
    source.take("[", "expected a list of strings")
    if not source.skip("]"):
        index = 0
        while True:
            yield _encodable(source.string("expected a string", index), None, index)
            index += 1
            if source.skip("]"):
                break
            source.take(",", 'expected "," or "]"', index)
    source.take("}", 'only the field "text" may be given')
    if not source.at_end():
        raise _invalid("json_invalid", "something follows the object")


READERS: dict[str, Reader] = {
    "application/json": read_json,
    "application/x-ndjson": read_ndjson,
    "application/jsonl": read_ndjson,
    "text/csv": read_csv,
}


def _invalid(kind: str, message: str, line: int | None = None, index: int | None = None) -> Problem:
    """422 in FastAPI's shape, with `line` (or `index`, the place in a JSON list) beside the detail."""
    where: list[str | int] = ["body"]
    fields: dict[str, Any] = {}
    if line is not None:
        where, fields = ["body", line], {"line": line}
        message = f"line {line}: {message}"
    elif index is not None:
        where, fields = ["body", "text", index], {"index": index}
        message = f"text {index}: {message}"
    return Problem(422, [{"type": kind, "loc": where, "msg": message}], **fields)


def _encodable(text: str, line: int | None, index: int | None = None) -> str:
    """JSON can spell half a surrogate pair, which is no character."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _invalid("string_unicode", "not valid Unicode", line, index) from None
    return text


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Lines with their ends, split at \\n alone: a carriage return may belong to a field of CSV."""
    number, rest = 1, ""
    try:
        for text in codecs.iterdecode(blocks, "utf-8-sig"):
            *lines, tail = text.split("\n")
            for line in lines:
                yield f"{rest}{line}\n"
                number, rest = number + 1, ""
            rest += tail
            if len(rest) > MAX_FIELD:
                raise _invalid("string_too_long", f"longer than {MAX_FIELD} characters", number)
    except UnicodeDecodeError:
        raise _invalid("string_unicode", "not valid UTF-8", number) from None
    if rest:
        yield rest


class _Characters:
    """A JSON body as it arrives: as much of it as the next token needs."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._source = codecs.iterdecode(blocks, "utf-8-sig")
        self._held = ""
        self._at = 0

    def take(self, token: str, otherwise: str, index: int | None = None) -> None:
        """Goes past `token`, one character, and the white space before it. Else raises with `otherwise`."""
        if not self.skip(token):
            raise _invalid("json_invalid", otherwise, None, index)

    def skip(self, token: str) -> bool:
        """Goes past `token` if that comes next."""
        if self._next() != token:
            return False
        self._at += 1
        return True

    def string(self, otherwise: str, index: int | None = None) -> str:
        """The string that comes next, decoded."""
        if self._next() != '"':
            raise _invalid("string_type", otherwise, None, index)
        while (found := _string(self._held, self._at)) is None:
            if len(self._held) - self._at > MAX_FIELD or not self._more():
                raise _invalid("json_invalid", "a string that does not end", None, index)
        self._at = found.end()
        raw = found[0]
        if "\\" not in raw:
            return raw[1:-1]
        try:
            text: str = json.loads(raw)
        except ValueError:
            raise _invalid("json_invalid", "not a valid string", None, index) from None
        return text

    def at_end(self) -> bool:
        """Whether nothing but white space is left."""
        return self._next() == ""

    def _next(self) -> str:
        while True:
            space = _space(self._held, self._at)
            assert space is not None, "it matches nothing, too"
            self._at = space.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads on. False at the end of the body."""
        try:
            block = next(self._source, "")
        except UnicodeDecodeError:
            raise _invalid("string_unicode", "not valid UTF-8") from None
        self._held, self._at = self._held[self._at :] + block, 0
        return bool(block)
