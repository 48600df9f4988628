"""Generators that parse the body of a job, in JSON, NDJSON or CSV, and yield its texts while it arrives.

Each takes an iterator of byte blocks, keeps at most a block and a text in memory, and raises Problem 422 with
the line (JSON: the position in the list) of the first error. A text that exceeds the service's limit becomes
an entry with an error, but a line, field or string longer than MAX_FIELD is an error in the body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from api.asgi.json_reader import HALF_PAIR, MAX_FIELD, NOT_UTF8, decoded, is_unicode, read_json
from api.errors import invalid_body
from api.jobs.csv_rows import BadTable, read_table

Reader = Callable[[Iterable[bytes]], Iterator[str]]


def read_ndjson(blocks: Iterable[bytes]) -> Iterator[str]:
    """Reads one JSON string, or one object with the string `text`, per line. Empty lines are skipped."""
    for number, value in read_lines(blocks):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            message = 'expected a JSON string, or an object with the string "text"'
            raise invalid_body("string_type", message, line=number)
        if not is_unicode(text):
            raise invalid_body("string_unicode", HALF_PAIR, line=number)
        yield text


def read_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yields the JSON value of each line of NDJSON, and its number. Empty lines are skipped."""
    for number, line in enumerate(_lines(blocks), 1):
        if not line.strip():
            continue
        try:
            value = _decode(line)
        except _DuplicateKey:
            raise invalid_body("duplicate_key", "a field is given more than once", line=number) from None
        except (ValueError, RecursionError):
            raise invalid_body("json_invalid", "not valid JSON", line=number) from None
        yield number, value


def read_csv(blocks: Iterable[bytes]) -> Iterator[str]:
    """Reads the column `text`. The first line must name the columns."""
    rows = read_table(_lines(blocks))
    try:
        names = next(rows)
        if names.count("text") != 1:
            message = 'the first line must name one column "text"; ?filename=a.csv&column=NAME names another'
            raise invalid_body("missing", message, line=1)
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


class _DuplicateKey(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses duplicate keys, because parsers disagree on which of the values counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKey
    return found


_decode = json.JSONDecoder(object_pairs_hook=_unique).decode


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Splits at \\n only, and keeps it: a carriage return may be part of a CSV field."""
    number = 1
    rest = ""
    for text in decoded(blocks):
        *lines, tail = text.split("\n")
        for line in lines:
            yield _line(f"{rest}{line}\n", number)
            number += 1
            rest = ""
        rest += tail
        if len(rest) > MAX_FIELD:
            raise invalid_body("string_too_long", f"longer than {MAX_FIELD} characters", line=number)
    if rest:
        yield _line(rest, number)


def _line(line: str, number: int) -> str:
    if not is_unicode(line):
        raise invalid_body("string_unicode", NOT_UTF8, line=number)
    return line
