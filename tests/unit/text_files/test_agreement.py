"""Tables that hypothesis draws: what is written is read, in every way, and comes back beside its result."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.jobs.body import described, file_texts
from api.jobs.labelled import hints_of
from model_store.training.table import MAX_TEXT, Columns, read_table
from tests.unit.text_files.typed_files import arrow, parquet, sheet_of, table_of, xlsx
from text_files.cells import plain
from text_files.formats import Hints
from text_files.output import Output, OutputFormat
from text_files.rows import FileRows
from text_files.source import TextFile

# Also what ends lines elsewhere, quotes, delimiters, and what looks blank.
_CHARACTERS = st.one_of(
    st.sampled_from("\x85\u2028\x1e\ufeff\x0b \t,;|\"'#=\n"), st.characters(exclude_categories=("Cs", "Cc"))
)
_KINDS = ((".csv", ","), (".csv", ";"), (".tsv", "\t"), ("", ","), ("", "|"))
_CELLS = st.text(_CHARACTERS, max_size=12)
_NAMES = st.text(st.sampled_from("abc #,;\n"), max_size=4).filter(
    lambda name: name.strip() not in ("text", "label")
)
_LABELS = st.text(st.sampled_from('abc "'), min_size=1, max_size=4).filter(lambda name: bool(name.strip()))


@dataclass(frozen=True)
class Drawn:
    """A file, its rows with the names of their columns first, and where the text and the label are."""

    name: str
    content: bytes
    rows: list[list[str]]
    text: int
    label: int


@st.composite
def tables(draw: st.DrawFn) -> Drawn:
    names = draw(st.lists(_NAMES, max_size=3))
    names.insert(draw(st.integers(0, len(names))), "text")
    names.insert(draw(st.integers(0, len(names))), "label")
    text, label = names.index("text"), names.index("label")
    rows = [names]
    for _ in range(draw(st.integers(1, 5))):
        row = [draw(_CELLS) for _ in names]
        row[text], row[label] = draw(_CELLS), draw(_LABELS)
        rows.append(row)
    suffix, delimiter = draw(
        st.sampled_from([(".csv", ","), (".csv", ";"), (".tsv", "\t"), ("", ","), ("", "|")])
    )
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if draw(st.booleans()) else csv.QUOTE_MINIMAL
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="\r\n").writerows(rows)
    content = out.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    if draw(st.booleans()):
        half = len(content) // 2
        content = gzip.compress(content[:half]) + gzip.compress(content[half:])
        suffix += ".gz"
    return Drawn(f"a{suffix}", content, rows, text, label)


@given(tables())
def test_a_drawn_table_is_read_alike_in_every_way(drawn: Drawn) -> None:
    texts = [row[drawn.text] for row in drawn.rows[1:]]
    upload = FileRows([drawn.content], drawn.name, Hints())
    assert list(file_texts(upload)) == texts, "upload"
    stored = described(upload)
    assert [row.text for row in FileRows([drawn.content], drawn.name, hints_of(stored))] == texts, "page"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, drawn.name)
        path.write_bytes(drawn.content)
        command = TextFile(path, Hints())
        assert list(command.texts()) == texts, "command"
        _comes_back(command, drawn)
        wanted = [
            (row[drawn.text][:MAX_TEXT], (row[drawn.label].strip(),))
            for row in drawn.rows[1:]
            if row[drawn.text].strip()
        ]
        if wanted:
            found = read_table(path, columns=Columns(hints=Hints())).rows
            assert [(row.text, row.labels) for row in found] == wanted, "training"


def _comes_back(command: TextFile, drawn: Drawn) -> None:
    results = [[{"label": f"L{number}", "score": 0.5}] for number in range(len(drawn.rows) - 1)]
    joined = list(zip(command.rows(), results, strict=True))
    form = command.preview().format
    table = "".join(Output.of(form).lines(command.names(), joined)).removeprefix("\ufeff")
    found = list(csv.reader(io.StringIO(table, newline=""), delimiter=form.delimiter))
    assert [row[:-3] for row in found] == drawn.rows
    assert [row[-3] for row in found[1:]] == [result[0]["label"] for result in results]
    lines = "".join(Output.of(form, "ndjson").lines(command.names(), joined)).removesuffix("\n")
    for line, row in zip(lines.split("\n"), drawn.rows[1:], strict=True):
        assert list(json.loads(line).values())[: len(row)] == row


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _CELLS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_CELLS, inner, max_size=2),
    max_leaves=4,
)


_OBJECTS = st.fixed_dictionaries({"text": _CELLS, "more": _VALUES})


@given(st.lists(_OBJECTS, min_size=1, max_size=4), st.booleans())
def test_drawn_objects_keep_their_notation(objects: list[dict[str, Any]], lines: bool) -> None:
    separators = "\n" if lines else ",\n "
    written = [json.dumps(one, ensure_ascii=False) for one in objects]
    content = separators.join(written) if lines else f"[{separators.join(written)}]"
    rows = list(FileRows([content.encode()], "a.ndjson" if lines else "a.json", Hints()))
    assert [row.text for row in rows] == [one["text"] for one in objects]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.ndjson" if lines else "a.json")
        path.write_bytes(content.encode())
        file = TextFile(path, Hints())
        joined = [(row, [{"label": "x", "score": 0.5}]) for row in rows]
        form = file.preview().format
        out = "".join(Output.of(form).lines(file.names(), joined)).removesuffix("\n").split("\n")
        for line, one in zip(out, written, strict=True):
            assert line.startswith(f"{one[:-1]}, ")
        table = "".join(Output.of(form, "csv").lines(file.names(), joined))
        more = file.names().index("more")
        cells = [row[more] for row in csv.reader(io.StringIO(table, newline=""))][1:]
        for found, one in zip(cells, objects, strict=True):
            assert found == _cell(one["more"])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


_PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=8).filter(
    lambda text: not text.startswith("=")
)
_COLUMNS = {
    pa.string(): st.none() | _PLAIN,
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.none() | st.floats(allow_nan=False, width=64),
    pa.bool_(): st.none() | st.booleans(),
    pa.list_(pa.string()): st.none() | st.lists(_PLAIN, max_size=2),
}
_RESULTS = [[{"label": f"L{number}", "score": 0.5}] for number in range(5)]


@st.composite
def typed(draw: st.DrawFn) -> pa.Table:
    count = draw(st.integers(1, 4))
    kinds = draw(st.lists(st.sampled_from(list(_COLUMNS)), max_size=4))
    columns = {"id": pa.array(range(1, count + 1))}
    for number, kind in enumerate(kinds):
        columns[f"c{number}"] = pa.array(draw(st.lists(_COLUMNS[kind], min_size=count, max_size=count)), kind)
    columns["text"] = pa.array(draw(st.lists(_PLAIN, min_size=count, max_size=count)))
    columns["label"] = pa.array(draw(st.lists(_LABELS, min_size=count, max_size=count)))
    return pa.table(columns)


@given(typed(), st.sampled_from(["parquet", "arrow", "xlsx"]))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
def test_a_drawn_table_with_types_is_read_alike_in_every_way(table: pa.Table, form: OutputFormat) -> None:
    rows, names = table.to_pylist(), table.column_names
    if form == "xlsx":
        content = xlsx([names, *([_in_a_sheet(one) for one in row.values()] for row in rows)])
    else:
        content = (parquet if form == "parquet" else arrow)(table)
    texts = [row["text"] for row in rows]
    hints = Hints(also=("label",))
    alone = FileRows([content], "a", hints, source=io.BytesIO(content))  # as the process of uploads does
    assert [row.text for row in alone] == texts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a.{form}")
        path.write_bytes(content)
        file = TextFile(path, hints)
        assert list(file.texts()) == texts
        wanted = [(row["text"], (row["label"].strip(),)) for row in rows if row["text"].strip()]
        if wanted:
            found = read_table(path, columns=Columns(hints=Hints())).rows
            assert [(row.text, row.labels) for row in found] == wanted
        made = {name: _made(file, name) for name in ("csv", "ndjson", form)}
    for line, row in zip(made["ndjson"].decode().split("\n"), rows, strict=False):
        values = [json.loads(line)[name] for name in names]
        assert values == [_in_json(one, sheet=form == "xlsx") for one in row.values()]
    cells = list(csv.reader(io.StringIO(made["csv"].decode(), newline="")))
    assert [row[-3] for row in cells] == ["predicted_label", *(f"L{number}" for number in range(len(rows)))]
    if form == "xlsx":
        assert [row[-3] for row in sheet_of(made[form])[1:]] == [row[-3] for row in cells[1:]]
    else:
        assert (
            table_of(made[form])
            .drop_columns(["predicted_label", "predicted_score", "prediction_error"])
            .equals(table)
        )


def _made(file: TextFile, form: OutputFormat) -> bytes:
    output = Output.of(file.preview().format, form)
    return b"".join(output.blocks(file.names(), zip(file.rows(), _RESULTS, strict=False)))


def _in_a_sheet(value: Any) -> Any:
    """What a cell can hold: 16 digits of a number, no lists, and no integers beyond those of a double."""
    value = float(f"{value:.16g}") if isinstance(value, float) else value
    large = isinstance(value, int) and abs(value) > 2**53
    infinite = isinstance(value, float) and math.isinf(value)  # 16 digits may be more than the largest one
    return json.dumps(value) if large or infinite or isinstance(value, list) else value


def _in_json(value: Any, *, sheet: bool) -> Any:
    if sheet:
        value = _in_a_sheet(value)
        return None if value == "" else value
    return plain(value)
