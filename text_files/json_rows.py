"""Reads NDJSON, and lists in JSON one item at a time. Values keep the notation that they have in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from text_files.decoding import MAX_FIELD
from text_files.errors import BadFile

LIST = 'expected a list of texts or objects, or {"text": [...]}; one object per line is NDJSON'
_TWICE = "a field is given more than once"
_LONG = f"not valid JSON, or longer than {MAX_FIELD} characters"
_space = re.compile(r"[ \t\r\n]*").match


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written, also NaN and those that no float has."""

    written: str


class _DuplicateKey(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses duplicate keys, because parsers disagree on which of the values counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKey
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=Number, parse_float=Number, parse_constant=Number
)


def read_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any, str]]:
    """The number, the value and the source of every line of NDJSON, from the number and the line."""
    for number, line in lines:
        source = line.strip(" \t\r\n")
        try:
            value = _DECODER.decode(source)
        except _DuplicateKey:
            raise BadFile("duplicate_key", _TWICE, line=number) from None
        except (ValueError, RecursionError):
            raise BadFile("json_invalid", "not valid JSON", line=number) from None
        yield number, value, source


def read_items(text: Iterable[str]) -> Iterator[tuple[int, Any, str]]:
    """The same of the items of a list, or of `{"text": [...]}`."""
    source = _Json(iter(text))
    wrapped = source.skip("{")
    if wrapped and (source.value()[0] != "text" or not source.skip(":")):
        raise BadFile("model_type", LIST)
    if not source.skip("["):
        raise BadFile("list_type", LIST)
    number = 0
    while not source.skip("]"):
        if number and not source.skip(","):
            raise BadFile("json_invalid", f"item {number + 1}: expected a comma or a closing bracket")
        number += 1
        yield number, *source.value(number)
    if (wrapped and not source.skip("}")) or not source.at_end():
        raise BadFile("json_invalid", "unexpected data after the list")


def written(source: str) -> dict[str, str]:
    """The fields of the object `source`, each value as it is written there."""
    fields = {}
    at = _after_space(source, source.index("{") + 1)
    while source[at] != "}":
        name, at = _DECODER.raw_decode(source, at)
        begins = _after_space(source, _after_space(source, at) + 1)
        at = _DECODER.raw_decode(source, begins)[1]
        fields[name] = source[begins:at]
        at = _after_space(source, at)
        at = _after_space(source, at + 1) if source[at] == "," else at
    return fields


def _after_space(source: str, at: int) -> int:
    space = _space(source, at)
    assert space is not None, "it also matches the empty string"
    return space.end()


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
            self._at = _after_space(self._buffer, self._at)
            if self._at < len(self._buffer):
                return False
            if not self._more(0):
                return True

    def value(self, number: int = 0) -> tuple[Any, str]:
        """Consumes a string or an object: its value and source. Reads as much again before each retry."""
        where, why = f"item {number}: " if number else "", "not valid JSON"
        while not self.at_end():
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except _DuplicateKey:
                raise BadFile("duplicate_key", f"{where}{_TWICE}") from None
            except RecursionError:
                break
            except ValueError:
                left = len(self._buffer) - self._at
                if left <= MAX_FIELD and self._more(left):
                    continue
                why = _LONG if left > MAX_FIELD else why
                break
            if end - self._at > MAX_FIELD:
                why = _LONG
                break
            source, self._at = self._buffer[self._at : end], end
            return value, source
        raise BadFile("json_invalid", f"{where}{why}" if where else LIST)

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
