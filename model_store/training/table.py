"""Reads labelled texts from CSV, TSV or NDJSON, line by line and in bounded memory. Standard library only.

A CSV may be separated by commas, semicolons, tabs or bars, whichever makes its first line name both columns.
A TSV has no quotes. NDJSON has one object a line, whose label may be a list. A label is text, without
the spaces around it. Rows without a text or without a label are counted and left out.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TextIO

from model_store.errors import BadTable

FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
# Rows that are kept; of a longer file, a random sample of this size.
MAX_ROWS = 200_000
# Characters of a line, and of a text that are kept: no model reads more than a few thousand.
MAX_LINE, MAX_TEXT = 1_000_000, 20_000
MAX_LABEL = 200

csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
# JSON can write halves of characters, which are not text: no tokenizer and no file takes them.
_HALF, _HALF_EXAMPLE = re.compile("[\ud800-\udfff]"), r"\ud83d alone"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row has its text and its labels; several labels are joined by `separator`, if there is one."""

    text: str = "text"
    label: str = "label"
    separator: str = ""


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text and its labels: one, or any number of them if the columns have a separator."""

    text: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class Table:
    """The rows of files: `total`, of which `rows` were kept, and `empty` and `unlabelled` left out."""

    name: str
    rows: list[LabelledRow] = field(default_factory=list)
    total: int = 0
    empty: int = 0
    unlabelled: int = 0


def read_table(*paths: Path, columns: Columns, most: int = MAX_ROWS, seed: int = 1) -> Table:
    """Read the rows of one file or several. Raises BadTable, which names the line that is wrong."""
    table, rng, usable = Table(", ".join(map(_name, paths))), Random(seed), 0
    cells = ((path, *found) for path in paths for found in _cells(path, columns))
    for path, number, text, label in cells:
        table.total += 1
        labels = _labels(label, columns.separator)
        if any(len(one) > MAX_LABEL for one in labels):
            raise BadTable(f"{path}, line {number}: a label has more than {MAX_LABEL} characters.")
        if not text.strip():
            table.empty += 1
        elif not labels and not columns.separator:
            table.unlabelled += 1
        else:
            usable += 1
            row = LabelledRow(text[:MAX_TEXT], labels)
            # Reservoir sampling: every row has the same chance to be kept (Vitter 1985, algorithm R).
            if len(table.rows) < most:
                table.rows.append(row)
            elif (place := rng.randrange(usable)) < most:
                table.rows[place] = row
    if not table.rows:
        raise BadTable(f"{table.name} contains no labelled text.")
    return table


def _name(path: Path) -> str:
    """The name of a file, as a report in UTF-8 can have it."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _labels(cell: str | list[str], separator: str) -> tuple[str, ...]:
    parts = cell if isinstance(cell, list) else cell.split(separator) if separator else [cell]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _cells(path: Path, columns: Columns) -> Iterator[tuple[int, str, str | list[str]]]:
    """The line, the text and the label of every row."""
    form = FORMATS.get(path.suffix.lower())
    if os.path.exists(path) and not os.path.isfile(path):  # these of Path may raise OSError
        # A file is read more than once, and what a pipe has given is gone.
        kind = "directory" if os.path.isdir(path) else "pipe or device"
        raise BadTable(f"{path} is a {kind}: name a file that ends in one of {', '.join(FORMATS)}.")
    if form is None:
        raise BadTable(f"{path}: the name must end in one of {', '.join(FORMATS)}.")
    try:
        with path.open("rb") as raw:
            if b"\0" in raw.read(4096):
                raise BadTable(f"{path} is a binary file, not {form.upper()}: save it as CSV in UTF-8.")
        with path.open(encoding="utf-8-sig", newline="" if form == "csv" else None) as file:
            read: Callable[[Path, TextIO, Columns], Iterator[tuple[int, str, str | list[str]]]]
            read = _ndjson if form == "ndjson" else _separated
            yield from read(path, file, columns)
    except UnicodeDecodeError:
        raise BadTable(f"{path} is not UTF-8: save it again with that encoding.") from None
    except OSError as error:
        raise BadTable(f"{path} cannot be read: {error.strerror}.") from None


def _bounded(path: Path, file: TextIO) -> Iterator[str]:
    """The lines, each of bounded length."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise BadTable(f"{path}, line {number}: more than {MAX_LINE:,} characters in one line.")
        if "\0" in line:
            raise BadTable(f"{path}, line {number}: a NUL character, so this is not a text file.")
        yield line


def _separated(path: Path, file: TextIO, columns: Columns) -> Iterator[tuple[int, str, str | list[str]]]:
    lines = _bounded(path, file)
    first = next(lines, "")
    names, delimiter = _header(path, first, columns)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    if path.suffix.lower() in (".tsv", ".tab"):
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    text, label, begins = names.index(columns.text), names.index(columns.label), 2
    try:
        for row in rows:
            if row and len(row) != len(names):
                raise BadTable(
                    f"{path}, line {begins}: {len(row)} columns, but the first line names {len(names)}."
                )
            if row:
                yield begins, row[text], row[label]
            begins = rows.line_num + 2
    except csv.Error as error:
        unclosed = "field limit" in str(error) or "unexpected end" in str(error)
        problem = "a quote is never closed" if unclosed else str(error)
        raise BadTable(f"{path}, line {begins}: {problem}.") from None


def _header(path: Path, line: str, columns: Columns) -> tuple[list[str], str]:
    """The names of the columns and the delimiter. Raises BadTable if no delimiter shows both columns."""
    tabs = path.suffix.lower() in (".tsv", ".tab")
    best: list[str] = []
    for delimiter in "\t" if tabs else ",;\t|":
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
        except csv.Error:
            continue
        if {columns.text, columns.label} <= set(names):
            break
        best = max(best, names, key=len)
    else:
        missing = next(name for name in (columns.text, columns.label) if name not in best)
        found = ", ".join(best)[:200] or "nothing"
        option = "--text-column" if missing == columns.text else "--label-column"
        raise BadTable(
            f"{path} has no column {missing!r} (its first line has: {found}): choose with {option}."
        )
    if columns.text == columns.label:
        raise BadTable("The text and the label cannot be the same column.")
    if twice := next((name for name in (columns.text, columns.label) if names.count(name) > 1), None):
        raise BadTable(f"{path} has two columns {twice!r}.")
    return names, delimiter


def _ndjson(path: Path, file: TextIO, columns: Columns) -> Iterator[tuple[int, str, str | list[str]]]:
    for number, line in enumerate(_bounded(path, file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise BadTable(f"{path}, line {number}: not valid JSON.") from None
        if not isinstance(row, dict) or not isinstance(row.get(columns.text), str):
            raise BadTable(f"{path}, line {number}: not an object with a string {columns.text!r}.")
        label = _json_label(path, number, row.get(columns.label), columns)
        if _HALF.search(row[columns.text]) or _HALF.search("".join(label)):
            raise BadTable(f"{path}, line {number}: half a surrogate pair, as {_HALF_EXAMPLE}, is not text.")
        yield number, row[columns.text], label


def _json_label(path: Path, number: int, value: Any, columns: Columns) -> str | list[str]:
    if isinstance(value, list) and columns.separator and all(isinstance(one, str) for one in value):
        return value
    if isinstance(value, str | int | float) or value is None:
        return "" if value is None else str(value)
    several = "" if columns.separator else "; for several labels a text, add --separator"
    raise BadTable(f"{path}, line {number}: {columns.label!r} is not a label{several}.")
