"""Reads labelled texts row by row and in bounded memory, from any file that `text_files` reads.

The label of an object in JSON may be a list. A label is text, without the spaces around it. Rows without a
text or without a label are counted and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from model_store.errors import BadTable
from text_files.cells import cell
from text_files.decoding import HALF_PAIR, is_unicode, readable
from text_files.errors import FileError
from text_files.formats import Hints
from text_files.source import TextFile

# Rows that are kept; of a longer file, a random sample of this size.
MAX_ROWS = 200_000
# Characters of a text that are kept, as no model reads more than a few thousand, and those of a label.
MAX_TEXT, MAX_LABEL = 20_000, 200

# Where Prodigy has what the annotator thought of a row.
_ANSWER = "answer"
_HINTS = Hints()


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row has its text and its labels; several labels are joined by `separator`, if there is one.

    `hints` say how the file is read.
    """

    text: str = "text"
    label: str = "label"
    separator: str = ""
    hints: Hints = _HINTS


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text and its labels: one, or any number of them if the columns have a separator."""

    text: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class Table:
    """The rows of files: `total`, of which `rows` were kept, and those that were left out by the reason."""

    name: str
    rows: list[LabelledRow] = field(default_factory=list)
    total: int = 0
    empty: int = 0
    unlabelled: int = 0
    rejected: int = 0


def read_table(*paths: Path, columns: Columns, most: int = MAX_ROWS, seed: int = 1) -> Table:
    """Read the rows of one file or several. Raises BadTable, which names the line that is wrong."""
    table, rng, usable = Table(", ".join(readable(path.name) for path in paths)), Random(seed), 0
    cells = ((path, *found) for path in paths for found in _cells(path, columns))
    for path, number, text, label in cells:
        table.total += 1
        labels = _labels(label or "", columns.separator)
        if any(len(one) > MAX_LABEL for one in labels):
            raise BadTable(f"{path}, line {number}: a label has more than {MAX_LABEL} characters.")
        if label is None:
            table.rejected += 1
        elif not text.strip():
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
        seen = f"of {table.total} rows, {table.empty} have no text, {table.unlabelled} no {columns.label!r}"
        raise BadTable(f"{table.name} contains no labelled text: {seen}, {table.rejected} were not accepted.")
    return table


def _labels(cell: str | list[str], separator: str) -> tuple[str, ...]:
    parts = cell if isinstance(cell, list) else cell.split(separator) if separator else [cell]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _cells(path: Path, columns: Columns) -> Iterator[tuple[int, str, str | list[str] | None]]:
    """The line, the text and the label of every row. It is None where an annotator has not accepted it."""
    if os.path.exists(path) and not os.path.isfile(path):  # these of Path may raise OSError
        # A file is read more than once, and what a pipe has given is gone.
        kind = "directory" if os.path.isdir(path) else "pipe or device"
        raise BadTable(f"{path} is a {kind}: name a file.")
    if columns.text == columns.label:
        raise BadTable("The text and the label cannot be the same column.")
    hints = replace(columns.hints, column=columns.text, also=(columns.label,), if_any=(_ANSWER,))
    try:
        for row, (value, answer) in TextFile(path, hints).beside(columns.label, _ANSWER):
            label = _label(value, columns)
            if label is None:
                several = "" if columns.separator else "; for several labels a text, add --separator"
                raise BadTable(f"{path}, line {row.number}: {columns.label!r} is not a label{several}.")
            if not is_unicode("".join(label)):
                raise BadTable(f"{path}, line {row.number}: {HALF_PAIR}.")
            accepted = columns.label == _ANSWER or answer not in ("reject", "ignore")
            yield row.number, row.text, label if accepted else None
    except FileError as error:
        raise BadTable(str(error)) from None


def _label(value: object, columns: Columns) -> str | list[str] | None:
    """A label as it is written, or several; None if it is none."""
    if isinstance(value, list) and columns.separator and all(isinstance(one, str) for one in value):
        return value
    return cell(value)
