"""A row of a file, and its cells: as text, as JSON has them, or with types."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from text_files.json_rows import Number, written

# A label, its score, and the code of an error.
Best = tuple[str | None, float | None, str | None]


class Part:
    """Consecutive rows of a typed table: the number of each, and what a file like it is written from."""

    def __init__(
        self, numbers: Sequence[int], native: Any, columns: Mapping[int, Callable[[], list[Any]]]
    ) -> None:
        self.numbers = numbers
        self.native = native
        self._columns = columns
        self._values: dict[int, list[Any]] = {}

    def column(self, at: int) -> list[Any]:
        """The values of the column at this index, as JSON has them."""
        if at not in self._values:
            self._values[at] = self._columns[at]()
        return self._values[at]

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The values of every row, in all columns that were read."""
        return list(zip(*map(self.column, self._columns), strict=True))


class TypedTable(Protocol):
    """An open file. `header` is the number of the row that has the names of the columns, if one has."""

    names: Sequence[str]
    header: int | None

    def check(self, column: int) -> None:
        """Raises BadFile if a column cannot hold texts."""

    def parts(self, columns: Sequence[int] | None) -> Iterator[Part]:
        """All rows, with only these columns unless it is None."""


class Row(NamedTuple):
    """One row: the line (of JSON and typed tables: the item) where it begins, its text, and what else it has.

    `cells` are those of a table; `fields`, and its `source` as it is written, those of an object in JSON; a
    row of a typed table is that at the index `at` of a `part`.
    """

    number: int
    text: str
    cells: Sequence[str] = ()
    fields: dict[str, Any] | None = None
    source: str = ""
    part: Part | None = None
    at: int = 0

    def shown(self, names: Sequence[str]) -> Sequence[str]:
        """What a table of text has for the columns `names`."""
        if self.part is not None:
            return [shown(value) for value in self.part.rows[self.at]]
        if self.fields is None:
            return self.cells
        cells = {name: cell(value) for name, value in self.fields.items()}
        if None in cells.values():
            sources = written(self.source)
            cells = {name: sources[name] if value is None else value for name, value in cells.items()}
        return [cells.get(name) or "" for name in names]


def cell(value: Any) -> str | None:
    """What a table has for a value in JSON; None for those that only their source shows."""
    if isinstance(value, Number):
        return value.written
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def shown(value: Any) -> str:
    """What a table of text has for a value of `plain`."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(count: int, digits: int) -> str:
    """A duration as ISO 8601 writes it, from a count of units of which a second has 10 ** `digits`."""
    seconds, part = divmod(abs(count), 10**digits)
    days, rest = divmod(seconds, 86_400)
    shown = f"{rest % 60}.{part:0{digits}}".rstrip("0").rstrip(".") if part else f"{rest % 60}"
    return f"{'-' * (count < 0)}P{days}DT{rest // 3600}H{rest // 60 % 60}M{shown}S"


def plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601 writes them, bytes in base64, infinity by its name."""
    if isinstance(value, timedelta):
        return duration(value // timedelta(microseconds=1), 6)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value if math.isfinite(value) else name
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, datetime) and value.tzinfo is None and value.time() == time(0):
        value = value.date()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
