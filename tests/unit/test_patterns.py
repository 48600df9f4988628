"""Every regular expression that text of a client reaches takes time in proportion to that text."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import api
import text_files
from api.asgi.http import RequestHeaders, check_length, is_json, parse_prefer
from api.asgi.json_reader import read_json
from api.errors import Problem
from api.jobs.body import read_texts
from api.jobs.pages import page_type
from tests.unit.patterns import Costly, attacks, check_linear

# Beside those of the API: what texts and what Redis holds of them go through.
BEYOND = ("batcher.messages", "batcher.connection.outage", "batcher.tracing", "model_store.stub")


def patterns_of(module: ModuleType) -> Iterator[tuple[str, Any, re.Pattern[Any]]]:
    """Name, the use made of it, and the pattern: compiled ones, and their bound methods."""
    for name, value in vars(module).items():
        pattern = value if isinstance(value, re.Pattern) else getattr(value, "__self__", None)
        if isinstance(pattern, re.Pattern):
            use = value.fullmatch if value is pattern else value
            yield f"{module.__name__}.{name}", use, pattern


def modules() -> list[str]:
    """Of the API and of files, all of them; `__main__` would start the API."""
    found = [one.name for one in pkgutil.walk_packages(api.__path__, "api.") if "__main__" not in one.name]
    files = [one.name for one in pkgutil.walk_packages(text_files.__path__, "text_files.")]
    return [*found, *files, *BEYOND]


FOUND = [found for name in modules() for found in patterns_of(importlib.import_module(name))]


@pytest.mark.parametrize(
    ("use", "pattern"), [found[1:] for found in FOUND], ids=[found[0] for found in FOUND]
)
def test_finding_07_every_pattern_takes_linear_time(use: Any, pattern: re.Pattern[Any]) -> None:
    check_linear(use, binary=isinstance(pattern.pattern, bytes), shapes=attacks(pattern.pattern))


def test_patterns_are_found() -> None:
    names = {name for name, _, _ in FOUND}
    assert {
        "api.asgi.http._seconds",
        "api.asgi.json_reader._space",
        "batcher.messages._is_fragment",
    } <= names


# The one that took 2.5 s for 800 spaces: `Prefer: wait=`, spaces, `""x`.
OLD_PREFERENCE = rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:=[ \t]*\"?([^\",;]*)\"?)?[ \t]*(?:;.*)?"


@pytest.mark.parametrize("bad", [OLD_PREFERENCE, rb"(a+)+b", rb"a*a*b", rb"(?:a|a)*b", rb" *[^x]* *y"])
def test_a_pattern_that_takes_more_is_found(bad: bytes) -> None:
    with pytest.raises(Costly):
        check_linear(re.compile(bad).fullmatch, binary=True, shapes=attacks(bad))


# What of a head is read by hand, and bodies in small pieces.
READERS: dict[str, Any] = {
    "prefer": lambda value: parse_prefer([value]),
    "many lines of prefer": lambda value: parse_prefer([value[:8]] * (len(value) // 8)),
    "content-type": is_json,
    "accept": lambda value: page_type(value.decode("latin-1")),
    "traceparent": lambda value: RequestHeaders({"headers": [(b"traceparent", value)]}).trace,
    "x-request-id": lambda value: RequestHeaders({"headers": [(b"x-request-id", value)]}).request_id,
    "content-length": lambda value: attempt(
        check_length, RequestHeaders({"headers": [(b"content-length", value)]}), 1000
    ),
    "ndjson": lambda body: attempt(list, read_texts("application/x-ndjson", pieces(b'"' + body))),
    "csv": lambda body: attempt(list, read_texts("text/csv", pieces(b'text\n"' + body))),
}
UNITS = (
    "\\\n",
    " ",
    "\t",
    ",",
    ";",
    "=",
    '"',
    "\\",
    "a",
    "9",
    "\n",
    "\x80",
    ", ",
    '\\"',
    '""',
    "+json",
    "q=",
    "a;q=1,",
    "wait=,",
)


def pieces(body: bytes) -> Iterator[bytes]:
    return (body[at : at + 16] for at in range(0, len(body), 16))


def attempt(function: Any, *arguments: object) -> None:
    with contextlib.suppress(Problem):
        function(*arguments)


@pytest.mark.parametrize("reader", READERS)
def test_finding_07_what_reads_heads_and_bodies_takes_linear_time(reader: str) -> None:
    shapes = [(before, unit, end) for before in ("", "wait=") for unit in UNITS for end in ("", '""x')]
    check_linear(READERS[reader], binary=True, shapes=shapes)


def test_finding_13_strings_of_json_in_small_pieces_cost_their_length() -> None:
    """Each piece was the reason to look at all of the string again: 61 ms for 32,000 characters."""

    def read(text: bytes) -> None:
        attempt(list, read_json(pieces(b'{"text": ["' + text)))

    check_linear(read, binary=True, shapes=[("", unit, end) for unit in UNITS for end in ("", '"]}')])
