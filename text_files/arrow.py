"""Reads and writes Parquet and Arrow with pyarrow, about a thousand rows at a time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from text_files.cells import Best, Part, Row, duration, plain
from text_files.errors import BadFile, FileError, short
from text_files.typed import TYPED

# Rows that are read at once; rows and bytes of a row group of Parquet that is written.
ROWS = 1024
GROUP_ROWS, GROUP_BYTES = 64 * ROWS, 32 * 1024**2
_BUFFER = 64 * 1024
# Digits of the fraction of a second, by the unit of a duration.
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


class ArrowTable:
    """A file of Parquet or Arrow, the latter also as a stream."""

    header: int | None = None

    def __init__(self, source: Path | BinaryIO, form: str) -> None:
        self._form = form
        self._source = source
        with self._refused():
            if form == "parquet":
                self._file = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
                self._schema = self._file.schema_arrow
            else:
                self._schema = self._reader(None).schema
            self.names: Sequence[str] = self._schema.names

    def check(self, column: int) -> None:
        kind = self._schema.types[column]
        if not _is_text(kind):
            texts = [name for name, one in zip(self.names, self._schema.types, strict=True) if _is_text(one)]
            message = (
                f"the column {self.names[column]!r} has no texts but values of the type {str(kind)[:64]}"
            )
            raise BadFile("string_type", message, columns=short(texts), wanted=self.names[column])

    def parts(self, columns: Sequence[int] | None) -> Iterator[Part]:
        read = range(len(self.names)) if columns is None else columns
        number = 1
        with self._refused():
            for batch in self._batches(columns):
                for begin in range(0, batch.num_rows, ROWS):
                    some = batch.slice(begin, ROWS)
                    numbers = range(number, number + some.num_rows)
                    values = {at: partial(self._values, some.column(place)) for place, at in enumerate(read)}
                    yield Part(numbers, some, values)
                    number += some.num_rows

    def _values(self, column: pa.Array) -> list[Any]:
        with self._refused():
            return _values(column)

    def _batches(self, columns: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        if self._form == "arrow":
            reader = self._reader(columns)
            batches = getattr(reader, "num_record_batches", None)
            for batch in reader if batches is None else map(reader.get_batch, range(batches)):
                batch.validate(full=True)
                batch = _without_views(batch)
                # A stream may replace its dictionaries, a file has one for each column.
                yield _without_dictionaries(batch) if batches is None else batch
            return
        names = None if columns is None else [self.names[column] for column in columns]
        # A name with a dot would be that of a nested field, too.
        alone = all("." not in name and self.names.count(name) == 1 for name in names or ())
        for batch in self._file.iter_batches(ROWS, columns=names if alone else None, use_threads=False):
            yield batch if columns is None else batch.select(names if alone else [*columns])

    def _reader(self, columns: Sequence[int] | None) -> Any:
        options = pa.ipc.IpcReadOptions(included_fields=columns and [*columns], use_threads=False)
        if isinstance(self._source, io.BytesIO):
            file: Any = pa.BufferReader(self._source.getbuffer())
        else:
            file = pa.memory_map(str(self._source))
        whole = file.read(6) == b"ARROW1"
        file.seek(0)
        return (pa.ipc.open_file if whole else pa.ipc.open_stream)(file, options=options)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadFile("table_invalid", f"damaged {TYPED[self._form][0]} file ({reason})") from None
        except KeyError:  # such as intervals of months
            raise BadFile("table_invalid", "a column has a type that pyarrow does not read") from None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    known: bool = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return known


def _values(column: pa.Array) -> list[Any]:
    """The values as JSON has them. Decimals, times and short floats are as Arrow writes them."""
    kind, is_kind = column.type, pa.types
    if is_kind.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if is_kind.is_floating(kind) and kind.bit_width < 64:
        return [None if one is None else plain(float(one)) for one in column.cast(pa.string()).to_pylist()]
    if is_kind.is_duration(kind):
        counts = column.cast(pa.int64()).to_pylist()
        return [None if one is None else duration(one, _DIGITS[kind.unit]) for one in counts]
    return [plain(one) for one in column.cast(_written(kind), safe=False).to_pylist()]


def _written(kind: pa.DataType) -> pa.DataType:
    """The type with text for decimals and times, also nested ones: Python rounds or cannot hold some."""
    is_kind = pa.types
    if is_kind.is_struct(kind):
        return pa.struct([field.with_type(_written(field.type)) for field in kind.fields])
    if is_kind.is_list(kind) or is_kind.is_large_list(kind) or is_kind.is_fixed_size_list(kind):
        return pa.list_(_written(kind.value_type))
    if is_kind.is_map(kind):
        return pa.map_(_written(kind.key_type), _written(kind.item_type))
    if is_kind.is_duration(kind):  # Arrow does not write these, and Python holds no parts of microseconds
        return pa.duration("us")
    timed = is_kind.is_temporal(kind) and not is_kind.is_interval(kind)
    return pa.string() if timed or is_kind.is_decimal(kind) else kind


def write_table(
    form: str, names: Sequence[str], added: Sequence[str], rows: Iterable[tuple[Row, Best]], same: bool
) -> Iterator[bytes]:
    """The bytes of a file with these rows: with the types that they have in a file of Arrow, else as text.

    `same` is whether they come from a file of this form. Raises FileError for types that it cannot hold.
    """
    sink = _Sink()
    fields = [pa.field(name, pa.string()) for name in names]
    new = [pa.field(*one) for one in zip(added, (pa.string(), pa.float64(), pa.string()), strict=True)]
    writer: Any = None
    try:
        for table in _groups(_batches(pa.schema(fields), new, rows)):
            # Every row group of Parquet has another dictionary.
            table = table if same or form == "parquet" else _without_dictionaries(table)
            writer = writer or _writer(form, sink, table.schema)
            writer.write_table(table)
            yield sink.taken()
        writer = writer or _writer(form, sink, pa.schema([*fields, *new]))
        writer.close()
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{TYPED[form][0]} cannot hold these columns ({reason}): name the output .csv or .ndjson."
        raise FileError(message) from None
    yield sink.taken()


def _writer(form: str, sink: _Sink, schema: pa.Schema) -> Any:
    file = pa.PythonFile(sink, mode="w")
    if form == "parquet":
        return pq.ParquetWriter(file, schema)
    return pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        content = b"".join(self._parts)
        self._parts = []
        return content


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Row groups: one for each batch would make the file large, and slow to read."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.Table.from_batches(group)
            group, rows, size = [], 0, 0
    if group:
        yield pa.Table.from_batches(group)


def _batches(
    texts: pa.Schema, new: Sequence[pa.Field], rows: Iterable[tuple[Row, Best]]
) -> Iterator[pa.RecordBatch]:
    """Up to ROWS rows, of one part if they have any, and their results."""
    joined: list[tuple[Row, Best]] = []
    for row, best in rows:
        if joined and (row.part is not joined[0][0].part or len(joined) == ROWS):
            yield _batch(texts, new, joined)
            joined = []
        joined.append((row, best))
    if joined:
        yield _batch(texts, new, joined)


def _batch(texts: pa.Schema, new: Sequence[pa.Field], joined: Sequence[tuple[Row, Best]]) -> pa.RecordBatch:
    first = joined[0][0]
    if first.part is not None and isinstance(first.part.native, pa.RecordBatch):
        batch = first.part.native.slice(first.at, len(joined))
    else:
        cells = zip(*(row.shown(texts.names) for row, _ in joined), strict=True)
        batch = pa.record_batch([pa.array(one, pa.string()) for one in cells], texts)
    results = zip(*(best for _, best in joined), strict=True)
    columns = [pa.array(one, field.type) for one, field in zip(results, new, strict=True)]
    schema = pa.schema([*batch.schema, *new], batch.schema.metadata)
    return pa.record_batch([*batch.columns, *columns], schema)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch without dictionaries of string views, as polars writes categories: Arrow cannot decode them."""
    for at, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type) and pa.types.is_string_view(field.type.value_type):
            column = batch.column(at)
            values = column.dictionary.cast(pa.large_string())
            column = pa.DictionaryArray.from_arrays(column.indices, values, ordered=field.type.ordered)
            batch = batch.set_column(at, field.with_type(column.type), column)
    return batch


def _without_dictionaries(table: Any) -> Any:
    """A table or batch with the values: a file of Arrow has only one dictionary for each column."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(at).cast(field.type.value_type)
            table = table.set_column(at, field.with_type(values.type), values)
    return table
