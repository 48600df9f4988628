"""Parses `{"text": ["...", ...]}` string by string while the body arrives, and reports the first error.

It stops at the first unexpected token and does not build values it does not need, so the cost of a body is
proportional to its length. A leading byte order mark is accepted.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
from collections.abc import Iterable, Iterator

from api.errors import Problem, invalid_body
from text_files.decoding import HALF_PAIR as HALF_PAIR
from text_files.decoding import MAX_FIELD as MAX_FIELD
from text_files.decoding import is_unicode as is_unicode

# An error repeats at most this many characters of an unknown field's name.
MAX_NAME = 64
EMPTY = "the body is empty"
ENDS = "unexpected end of the body"
BODY = 'the body is {"text": ["...", ...]}'
# What clients of other services send in place of "text".
_OTHER_NAMES = (
    "texts",
    "inputs",
    "input",
    "instances",
    "sentences",
    "sentence",
    "data",
    "documents",
    "query",
)
NOT_UTF8 = "not valid UTF-8"

_space = re.compile(r"[ \t\r\n]*").match
# The part of a string that has arrived, up to its quote, a control character or an incomplete escape.
_inside = re.compile(r'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+').match
_value = re.compile(r'["\[{]|-?\d|true|false|null').match
# The length of the longest token that `_value` must see ("false").
_AHEAD = 5


def read_json(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yields the texts, at least one. The object may have no other field. Raises Problem 422."""
    source = _Characters(blocks)
    if source.at_end():
        raise invalid_body("missing", EMPTY)
    source.open("{", "model_type", 'must be an object with the field "text"')
    if source.skip("}"):
        raise invalid_body("missing", 'the field "text" is missing', "text")
    if (name := source.name()) != "text":
        raise _unknown(name)
    source.open("[", "list_type", "must be a list of strings", "text")
    if source.skip("]"):
        raise invalid_body("too_short", "must hold at least one text", "text")
    index = 0
    while True:
        yield source.text(index)
        index += 1
        if source.skip("]"):
            break
        source.take(",", 'expected "," or "]"', index)
    if source.skip(","):
        if (name := source.name()) == "text":
            raise invalid_body("duplicate_key", "given more than once", name)
        raise invalid_body("extra_forbidden", f"unknown field beside text: {BODY}", name[:MAX_NAME])
    source.take("}", 'expected "}"')
    if not source.at_end():
        raise source.broken("unexpected data after the object")


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """Decodes blocks of UTF-8, without a byte order mark. Text with invalid bytes fails `is_unicode`."""
    return codecs.iterdecode(blocks, "utf-8-sig", "surrogateescape")


def _unknown(name: str) -> Problem:
    meant = name in _OTHER_NAMES or difflib.get_close_matches(name[:MAX_NAME].lower(), ["text"])
    hint = 'did you mean "text"?' if meant else BODY
    return invalid_body("extra_forbidden", f"unknown field: {hint}", name[:MAX_NAME])


class _Characters:
    """A JSON body as it arrives. Only as much as the next token needs is kept."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._source = decoded(blocks)
        self._buffer = ""
        self._at = 0
        # How many characters came before those in the buffer.
        self._passed = 0
        # The last token that `skip` consumed.
        self._before = ""

    def open(self, token: str, kind: str, otherwise: str, *place: str) -> None:
        """Consumes an opening bracket. Raises an error of type `kind` for any other value."""
        if not self.skip(token):
            raise self._other(kind, otherwise, *place)

    def take(self, token: str, otherwise: str, index: int | None = None) -> None:
        """Consumes `token`, a single character, and the white space before it. Else raises `otherwise`."""
        if not self.skip(token):
            raise self.broken(otherwise, index)

    def skip(self, token: str) -> bool:
        """Consumes `token` if it comes next, and returns whether it did."""
        if self._next() != token:
            return False
        self._at += 1
        self._before = token
        return True

    def name(self) -> str:
        """Consumes the next field name and its colon, and returns the name."""
        if self._next() != '"':
            raise self.broken("expected a field name")
        name = self._decode(self._raw_string(None), None)
        self.take(":", 'expected ":"')
        return name

    def text(self, index: int) -> str:
        """Consumes and returns the next string of the list."""
        if self._next() != '"':
            raise self._other("string_type", "must be a string", index=index)
        return self._decode(self._raw_string(index), index)

    def at_end(self) -> bool:
        """Whether only white space is left."""
        return self._next() == ""

    def broken(self, message: str, index: int | None = None) -> Problem:
        """The error for a body that is not valid JSON at this position."""
        found = self._next()
        if not is_unicode(found):
            return invalid_body("string_unicode", NOT_UTF8, index=index)
        if not found:
            return invalid_body("json_invalid", ENDS, index=index)
        if found == "'":
            message = "JSON needs double quotes"
        elif found in "]}" and self._before == ",":
            message = f"a comma too many before {found}"
        where = self._passed + self._at + 1
        return invalid_body("json_invalid", f"{message} at character {where}", index=index)

    def _other(self, kind: str, message: str, *place: str, index: int | None = None) -> Problem:
        """The error for an unexpected value at this position, or for invalid JSON."""
        while len(self._buffer) - self._at < _AHEAD and self._more():
            pass
        if _value(self._buffer, self._at):
            return invalid_body(kind, message, *place, index=index)
        return self.broken(f"not valid JSON: {message}", index)

    def _raw_string(self, index: int | None) -> str:
        """Consumes the next string, with its quotes. Each part is scanned only once, however small it is."""
        parts = ['"']
        size = 0
        self._at += 1
        self._before = ""
        while True:
            inside = _inside(self._buffer, self._at)
            assert inside is not None, "it also matches the empty string"
            parts.append(inside[0])
            size += len(inside[0])
            self._at = inside.end()
            after = self._buffer[self._at : self._at + 2]
            if after.startswith('"'):
                self._at += 1
                return "".join([*parts, '"'])
            if after and after != "\\":  # a lone backslash is the first half of an escape
                message = "control characters in strings, such as line breaks, must be escaped"
                raise invalid_body("json_invalid", message, index=index)
            if size > MAX_FIELD or not self._more():
                raise invalid_body("json_invalid", "unterminated string", index=index)

    def _decode(self, raw: str, index: int | None) -> str:
        if not is_unicode(raw):
            raise invalid_body("string_unicode", NOT_UTF8, index=index)
        if "\\" not in raw:
            return raw[1:-1]
        try:
            text: str = json.loads(raw)
        except ValueError:
            raise invalid_body("json_invalid", "invalid escape sequence", index=index) from None
        if not is_unicode(text):
            raise invalid_body("string_unicode", HALF_PAIR, index=index)
        return text

    def _next(self) -> str:
        while True:
            space = _space(self._buffer, self._at)
            assert space is not None, "it also matches the empty string"
            self._at = space.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads the next block. Returns False at the end of the body."""
        block = next(self._source, "")
        self._passed += self._at
        self._buffer = self._buffer[self._at :] + block
        self._at = 0
        return bool(block)
