"""Tables in Parquet, Arrow and XLSX, and what such a file contains."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import openpyxl
import pyarrow as pa  # also for those that import it from here
import pyarrow.feather
import pyarrow.parquet as pq


def parquet(table: pa.Table, **more: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **more)
    return file.getvalue()


def arrow(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pyarrow.feather.write_feather(table, file)
    return file.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return file.getvalue()


def xlsx(rows: Sequence[Sequence[Any]], *others: Sequence[Sequence[Any]]) -> bytes:
    """A workbook with these sheets, the `others` before the last one."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for sheet_rows in (*others, rows):
        sheet = book.create_sheet()
        for row in sheet_rows:
            sheet.append(list(row))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def table_of(content: bytes) -> pa.Table:
    """What is in a file of Parquet or Arrow."""
    if content.startswith(b"PAR1"):
        return pq.read_table(io.BytesIO(content))
    return pa.ipc.open_file(io.BytesIO(content)).read_all()


def sheet_of(content: bytes) -> list[list[Any]]:
    """The values of the first sheet of a workbook."""
    return [[*row] for row in openpyxl.load_workbook(io.BytesIO(content)).worksheets[0].values]
