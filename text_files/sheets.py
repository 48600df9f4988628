"""Reads and writes spreadsheets in XLSX with openpyxl, row by row: the first sheet that has the column."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell

from text_files.cells import Best, Part, Row, plain, shown
from text_files.errors import BadFile, FileError
from text_files.formats import Hints, places
from text_files.tables import MAX_COLUMNS

# Rows that are read at once.
ROWS = 500
# How many columns without a name may follow those with one: what is further off is none of the table.
MAX_UNNAMED = 100
# What a sheet can hold, and the most bytes of the texts of a workbook, which are all in memory.
MAX_ROWS, MAX_CELL = 1024**2, 32_767
MAX_STRINGS = 128 * 1024**2
# Characters that XML cannot have, and their notation in spreadsheets.
_unwritable = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
_notation = re.compile("_x(00[01][0-9A-F]|005F)_")


class Sheet:
    """One sheet of a workbook. Rows without any value are not rows."""

    def __init__(self, source: Path | BinaryIO, hints: Hints) -> None:
        self._header = hints.header
        self.header: int | None
        with _refused():
            _check_size(source)
            book = load_workbook(source, read_only=True, data_only=True, keep_links=False)
            shown_sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            if not shown_sheets:
                found = "no sheet is visible, or the workbook is in Strict Open XML"
                raise BadFile("missing", f"{found}: save it as another XLSX or as CSV")
            for sheet in shown_sheets:
                sheet.reset_dimensions()  # programs write wrong ones
            firsts = {sheet.title: next(_rows(sheet), (1, [])) for sheet in shown_sheets}
        names = {title: [_text(one) for one in cells] for title, (_, cells) in firsts.items()}
        chosen = (sheet for sheet in shown_sheets if places(names[sheet.title], hints.column))
        self._sheet = next(chosen, shown_sheets[0])
        self.header, cells = firsts[self._sheet.title]
        with _refused():
            widest = max((len(row) for _, row in islice(_rows(self._sheet), ROWS)), default=0)
        unnamed = widest - len(cells) if widest - len(cells) <= MAX_UNNAMED else 0
        self._width = len(cells) + unnamed
        self.names: Sequence[str] = names[self._sheet.title] + [""] * unnamed
        if not hints.header:
            self.names = [str(number + 1) for number in range(self._width)]

    def check(self, column: int) -> None:
        """Any value is a text: spreadsheets make numbers of what looks like one."""

    def parts(self, columns: Sequence[int] | None) -> Iterator[Part]:
        read = range(self._width) if columns is None else columns
        with _refused():
            rows = _rows(self._sheet)
            if self._header:
                next(rows, None)
            while some := list(islice(rows, ROWS)):
                cells = [self._even(number, row) for number, row in some]
                values = {at: partial(_values, cells, at) for at in read}
                yield Part([number for number, _ in some], cells, values)

    def _even(self, number: int, cells: list[Any]) -> list[Any]:
        if len(cells) > self._width:
            found = f"{len(cells)} columns, more than the {self._width} of the first rows: name each column"
            raise BadFile("extra_forbidden", found, line=number)
        return cells + [None] * (self._width - len(cells))


def _rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """The number and the cells of every row that has a value, up to the last one."""
    for number, row in enumerate(sheet.iter_rows(), 1):
        cells = list(row)
        while cells and cells[-1].value is None:
            cells.pop()
        if len(cells) > MAX_COLUMNS:
            raise BadFile(
                "too_long", f"{len(cells)} columns, but a table may have {MAX_COLUMNS}", line=number
            )
        if cells:
            yield number, cells


def _values(rows: Sequence[Sequence[Any]], at: int) -> list[Any]:
    return [None if row[at] is None else _value(row[at]) for row in rows]


def _value(one: Any) -> Any:
    value = one.value
    return (
        _notation.sub(lambda code: chr(int(code[1], 16)), value) if isinstance(value, str) else plain(value)
    )


def _text(one: Any) -> str:
    return shown(_value(one))


def _check_size(source: Path | BinaryIO) -> None:
    """Raises BadFile for a workbook that takes too much memory. No file is larger than it says."""
    with ZipFile(source) as archive:
        sizes = {one.filename: one.file_size for one in archive.infolist()}
    large = sum(size for name, size in sizes.items() if not name.startswith("xl/worksheets/"))
    if large > MAX_STRINGS:
        raise BadFile("too_long", f"the texts of the workbook have {large} bytes, at most {MAX_STRINGS}")


@contextmanager
def _refused() -> Iterator[None]:
    """openpyxl raises errors of many kinds for damaged files, and warns of what it does not read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadFile:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise BadFile("table_invalid", f"damaged XLSX file ({reason})") from None


def write_table(
    names: Sequence[str], added: Sequence[str], rows: Iterable[tuple[Row, Best]], header: bool
) -> Iterator[bytes]:
    """The bytes of a workbook with these rows; values and their formats as in the one that they come from."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    cell = partial(_cell, sheet)
    heads = [[*map(cell, names), *map(cell, added)]] if header else []
    file = io.BytesIO()
    try:
        for number, line in enumerate(chain(heads, _lines(cell, names, rows)), 1):
            if number > MAX_ROWS:
                raise FileError(f"a sheet has at most {MAX_ROWS:,} rows: name the output .csv or .parquet.")
            sheet.append(line)
    finally:
        book.save(file)  # also removes the temporary file that has the rows
    yield file.getvalue()


def _lines(
    cell: Callable[[Any], Any], names: Sequence[str], rows: Iterable[tuple[Row, Best]]
) -> Iterator[list[Any]]:
    for row, best in rows:
        if row.part is None:
            values: Iterable[Any] = row.shown(names)
        elif isinstance(row.part.native, list):
            values = row.part.native[row.at]
        else:
            values = row.part.rows[row.at]
        yield [*map(cell, values), *map(cell, best)]


def _cell(sheet: Any, value: Any) -> Any:
    """A cell with a value, or a copy of a cell."""
    number_format, kind = getattr(value, "number_format", None), getattr(value, "data_type", None)
    value = value if kind is None else value.value
    if isinstance(value, (dict, list)) or (isinstance(value, int) and abs(value) > 2**53):
        value = shown(value)
    if value is None:
        return None
    if isinstance(value, str):
        if kind is None:
            value = _unwritable.sub(lambda found: f"_x{ord(found[0]):04X}_", value)
        if len(value) > MAX_CELL:
            raise FileError(f"a cell has at most {MAX_CELL:,} characters: name the output .csv or .parquet.")
    new = WriteOnlyCell(sheet, value)
    if isinstance(value, str):
        new.data_type = "e" if kind == "e" else "s"  # a text that begins with = is not a formula
    if number_format:
        new.number_format = number_format
    return new
