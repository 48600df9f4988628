"""`{"text": ["...", ...]}` read string by string while it arrives. What is wrong with it is said here alone.

It stops at the first thing that may not be there, and makes no values of what it does not need, so no body
costs more than its length. A byte order mark before it is no mistake.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from api.errors import Problem, invalid_body
from api.jobs.csv_rows import MAX_FIELD

# As much of an unknown field's name as is repeated.
MAX_NAME = 64
EMPTY = "the body is empty"
ENDS = "the body ends too early"
NOT_UTF8 = "not valid UTF-8"
HALF_PAIR = "not valid Unicode: half a surrogate pair"

_space = re.compile(r"[ \t\r\n]*").match
# As much of a string as is here, up to its quote, a control character, or an escape that is not whole.
_inside = re.compile(r'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+').match
_value = re.compile(r'["\[{]|-?\d|true|false|null').match
# The longest of these.
_AHEAD = 5


def read_json(blocks: Iterable[bytes]) -> Iterator[str]:
    """The texts, one at least. Nothing else may stand in the object. Raises Problem 422."""
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
        raise _unknown(name)
    source.take("}", 'expected "}"')
    if not source.at_end():
        raise source.broken("something follows the object")


def is_unicode(text: str) -> bool:
    """Whether it has no lone surrogate: what bytes that are no UTF-8 are read as, or half a pair."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """Blocks of characters, without a byte order mark. What is no UTF-8 is no `is_unicode`."""
    return codecs.iterdecode(blocks, "utf-8-sig", "surrogateescape")


def _unknown(name: str) -> Problem:
    return invalid_body("extra_forbidden", 'only the field "text" may be given', name[:MAX_NAME])


class _Characters:
    """A JSON body as it arrives: as much of it as the next token needs."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._source = decoded(blocks)
        self._held = ""
        self._at = 0

    def open(self, token: str, kind: str, otherwise: str, *place: str) -> None:
        """Goes past the bracket that comes next. Raises `kind` for another value."""
        if not self.skip(token):
            raise self._other(kind, otherwise, *place)

    def take(self, token: str, otherwise: str, index: int | None = None) -> None:
        """Goes past `token`, one character, and the white space before it. Else raises with `otherwise`."""
        if not self.skip(token):
            raise self.broken(otherwise, index)

    def skip(self, token: str) -> bool:
        """Goes past `token` if that comes next."""
        if self._next() != token:
            return False
        self._at += 1
        return True

    def name(self) -> str:
        """The name of the field that comes next; goes past its colon."""
        if self._next() != '"':
            raise self.broken("expected the name of a field")
        name = self._decode(self._raw_string(None), None)
        self.take(":", 'expected ":"')
        return name

    def text(self, index: int) -> str:
        """The string that comes next in the list."""
        if self._next() != '"':
            raise self._other("string_type", "must be a string", index=index)
        return self._decode(self._raw_string(index), index)

    def at_end(self) -> bool:
        """Whether nothing but white space is left."""
        return self._next() == ""

    def broken(self, said: str, index: int | None = None) -> Problem:
        """What stands here can be no JSON."""
        found = self._next()
        if not is_unicode(found):
            return invalid_body("string_unicode", NOT_UTF8, index=index)
        return invalid_body("json_invalid", said if found else ENDS, index=index)

    def _other(self, kind: str, said: str, *place: str, index: int | None = None) -> Problem:
        """Something else than what is wanted here: another value, or no JSON."""
        while len(self._held) - self._at < _AHEAD and self._more():
            pass
        if _value(self._held, self._at):
            return invalid_body(kind, said, *place, index=index)
        return self.broken(f"not valid JSON: {said}", index)

    def _raw_string(self, index: int | None) -> str:
        """The string that comes next, with its quotes. Each part is scanned once, however small it is."""
        parts, size = ['"'], 0
        self._at += 1
        while True:
            inside = _inside(self._held, self._at)
            assert inside is not None, "it matches nothing, too"
            parts.append(inside[0])
            size += len(inside[0])
            self._at = inside.end()
            after = self._held[self._at : self._at + 2]
            if after.startswith('"'):
                self._at += 1
                return "".join([*parts, '"'])
            if after and after != "\\":  # alone, it is half of an escape
                said = "a control character in a string, such as a line end, must be escaped"
                raise invalid_body("json_invalid", said, index=index)
            if size > MAX_FIELD or not self._more():
                raise invalid_body("json_invalid", "a string that does not end", index=index)

    def _decode(self, raw: str, index: int | None) -> str:
        if not is_unicode(raw):
            raise invalid_body("string_unicode", NOT_UTF8, index=index)
        if "\\" not in raw:
            return raw[1:-1]
        try:
            text: str = json.loads(raw)
        except ValueError:
            raise invalid_body("json_invalid", "an escape that JSON does not have", index=index) from None
        if not is_unicode(text):
            raise invalid_body("string_unicode", HALF_PAIR, index=index)
        return text

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
        block = next(self._source, "")
        self._held, self._at = self._held[self._at :] + block, 0
        return bool(block)
