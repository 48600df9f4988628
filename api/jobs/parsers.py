"""Texts out of the body of a job, one by one, while it arrives: JSON, NDJSON or CSV. Plain generators.

Each takes an iterator of byte blocks, holds no more than a block and a text at a time, and raises Problem 422
with the line (JSON: the place in the list) where the body stops making sense. A text that is merely longer
than this service takes becomes an entry with an error; a line, field or string beyond MAX_FIELD is no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from api.asgi.json_reader import HALF_PAIR, NOT_UTF8, decoded, is_unicode, read_json
from api.errors import invalid_body
from api.jobs.csv_rows import MAX_FIELD, BadTable, read_table

Reader = Callable[[Iterable[bytes]], Iterator[str]]


def read_ndjson(blocks: Iterable[bytes]) -> Iterator[str]:
    """One JSON string, or one object with the string `text`, a line. Empty lines count, but hold no text."""
    for number, line in enumerate(_lines(blocks), 1):
        if not line.strip():
            continue
        try:
            value = _decode(line)
        except _GivenTwice:
            raise invalid_body("duplicate_key", "a field is given more than once", line=number) from None
        except (ValueError, RecursionError):
            raise invalid_body("json_invalid", "not valid JSON", line=number) from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            message = 'expected a JSON string, or an object with the string "text"'
            raise invalid_body("string_type", message, line=number)
        if not is_unicode(text):
            raise invalid_body("string_unicode", HALF_PAIR, line=number)
        yield text


def read_csv(blocks: Iterable[bytes]) -> Iterator[str]:
    """The column `text`. The first line names the columns."""
    rows = read_table(_lines(blocks))
    try:
        names = next(rows)
        if names.count("text") != 1:
            raise invalid_body("missing", 'the first line must name one column "text"', line=1)
        column = names.index("text")
        for row in rows:
            yield row[column]
    except BadTable as error:
        raise invalid_body(error.kind, str(error), line=error.line) from None


READERS: dict[str, Reader] = {
    "application/json": read_json,
    "application/x-ndjson": read_ndjson,
    "application/jsonl": read_ndjson,
    "text/csv": read_csv,
}


class _GivenTwice(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it has two fields of one name: parsers differ in which of them they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _GivenTwice
    return found


_decode = json.JSONDecoder(object_pairs_hook=_unique).decode


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Lines with their ends, split at \\n alone: a carriage return may belong to a field of CSV."""
    number, rest = 1, ""
    for text in decoded(blocks):
        *lines, tail = text.split("\n")
        for line in lines:
            yield _line(f"{rest}{line}\n", number)
            number, rest = number + 1, ""
        rest += tail
        if len(rest) > MAX_FIELD:
            raise invalid_body("string_too_long", f"longer than {MAX_FIELD} characters", line=number)
    if rest:
        yield _line(rest, number)


def _line(line: str, number: int) -> str:
    if not is_unicode(line):
        raise invalid_body("string_unicode", NOT_UTF8, line=number)
    return line
