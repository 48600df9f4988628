"""The first rows of a file, by which people see whether it was read as they meant it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from text_files.formats import FileFormat
from text_files.rows import FileRows

ROWS = 3
# Columns, and characters of a cell, of the lines that people see.
MAX_COLUMNS, MAX_CELL = 6, 32


@dataclass(frozen=True, slots=True)
class Preview:
    """How a file was read, the names of its columns or fields, which one has the texts, and some rows."""

    format: FileFormat
    names: Sequence[str]
    column: int
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """A table, with an asterisk beside the column of the texts."""
        few = range(len(self.names))[: MAX_COLUMNS - 1]
        chosen = sorted({*few, self.column})
        names = [f"{self.names[at]} *" if at == self.column else self.names[at] for at in chosen]
        table = [[_short(one) for one in names], *([_short(row[at]) for at in chosen] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            yield " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def preview(rows: FileRows) -> Preview:
    """Reads the first rows. Raises BadFile as reading them does."""
    first = list(islice(rows, ROWS))
    assert rows.format is not None, "reading detects the format"
    fields = dict.fromkeys(name for row in first for name in row.fields or ())
    names = rows.names or tuple(fields) or (rows.column,)
    column = rows.places.get(rows.column, names.index(rows.column) if rows.column in names else 0)
    return Preview(rows.format, names, column, [row.shown(names) for row in first])


def _short(cell: str) -> str:
    # No sequences that a terminal would obey.
    one = "".join(one if one.isprintable() else "\ufffd" for one in " ".join(cell[:1000].split()))
    return one if len(one) <= MAX_CELL else f"{one[: MAX_CELL - 1]}…"
