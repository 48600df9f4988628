"""Parquet, Arrow and XLSX: read in all ways, and written in all formats."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pytest.importorskip("openpyxl")

from model_store.training.table import Columns, read_table  # noqa: E402
from tests.unit.garbage import LARGE, collected_by_hand, large_garbage  # noqa: E402
from tests.unit.text_files.typed_files import (  # noqa: E402
    arrow,
    arrow_stream,
    parquet,
    sheet_of,
    table_of,
    xlsx,
)
from text_files import formats, isolated, sheets  # noqa: E402
from text_files.errors import BadFile, FileError  # noqa: E402
from text_files.formats import Hints  # noqa: E402
from text_files.isolated import label_isolated, read_isolated  # noqa: E402
from text_files.output import Output, OutputFormat  # noqa: E402
from text_files.rows import FileRows  # noqa: E402
from text_files.source import TextFile  # noqa: E402

RESULTS: list[Any] = [
    [{"label": "POSITIVE", "score": 0.75}, {"label": "NEGATIVE", "score": 0.25}],
    {"error": {"code": "poison", "detail": "it ends workers"}},
    [{"label": "NEGATIVE", "score": 0.5}],
]
TEXTS = ["good", "", "=1+1\nné"]
COLUMNS = {
    "id": pa.array([2**63 - 1, None, -1], pa.int64()),
    "text": pa.array(["good", None, "=1+1\nné"]),
    "n": pa.array([0.1, float("nan"), None], pa.float32()),
    "price": pa.array([Decimal("1.10"), None, Decimal("0.00")], pa.decimal128(10, 2)),
    "at": pa.array([datetime(2025, 1, 2, 3, 4, 5, 6, UTC), None, None], pa.timestamp("ns", "UTC")),
    "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    "tags": pa.array([["x", None], [], None], pa.list_(pa.string())),
    "more": pa.array([{"a": 1.5, "b": None}, None, {"a": float("inf"), "b": b"\0"}]),
    "ok": pa.array([True, False, None]),
}
TABLE = pa.table(COLUMNS).replace_schema_metadata({"pandas": "{}"})
SHEET = [
    ["id", "text", None, "at"],
    [1, "good", 0.5, datetime(2025, 1, 2)],
    [],
    [None, "x", True, None],
    ["=1", 7, None, None, timedelta(days=1, hours=6, milliseconds=-1)],
]
WRITE = {"a.parquet": parquet, "a.feather": arrow, "a.arrows": arrow_stream}


def texts_of(path: Path, content: bytes, hints: Hints = Hints()) -> list[str]:  # noqa: B008
    path.write_bytes(content)
    alone = [row.text for row in FileRows([content[:100], content[100:]], path.name, hints)]
    found = list(TextFile(path, hints).texts())
    assert found == alone, "another process reads other texts"
    return found


def labelled(path: Path, form: OutputFormat | None, hints: Hints = Hints()) -> bytes:  # noqa: B008
    file = TextFile(path, hints)
    output = Output.of(file.preview().format, form)
    joined = zip(file.rows(), RESULTS, strict=True)
    return b"".join(output.blocks(file.names(), joined))


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_keep_their_types(tmp_path: Path, name: str, form: OutputFormat) -> None:
    path = tmp_path / name
    assert texts_of(path, WRITE[name](TABLE)) == TEXTS
    found = table_of(labelled(path, form))
    kept = found.select(TABLE.column_names)
    if (form == "parquet") == (name == "a.parquet") and name != "a.arrows":
        assert kept.schema == TABLE.schema
        assert found.schema.metadata[b"pandas"] == b"{}"
    assert kept.drop_columns(["kind", "n"]).equals(TABLE.drop_columns(["kind", "n"]))
    assert str(kept["n"].to_pylist()) == str(TABLE["n"].to_pylist())
    assert kept["kind"].to_pylist() == ["a", "b", "a"]
    assert found.column_names[-3:] == ["label", "score", "error"]
    assert found["label"].to_pylist() == ["POSITIVE", None, "NEGATIVE"]
    assert found["score"].to_pylist() == [0.75, None, 0.5]
    assert found["error"].to_pylist() == [None, "poison", None]


def test_what_json_has_of_typed_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(TABLE))
    first, second, third = map(json.loads, labelled(path, "ndjson").decode().splitlines())
    assert first == {
        "id": 2**63 - 1,
        "text": "good",
        "n": 0.1,
        "price": "1.10",
        "at": "2025-01-02 03:04:05.000006000Z",
        "kind": "a",
        "tags": ["x", None],
        "more": {"a": 1.5, "b": None},
        "ok": True,
        "prediction": RESULTS[0],
    }
    assert (second["text"], second["n"], second["more"]) == (None, "NaN", None)
    assert third["more"] == {"a": "Infinity", "b": "AA=="}
    rows = list(csv.reader(io.StringIO(labelled(path, "csv").decode(), newline="")))
    assert rows[1][:5] == ["9223372036854775807", "good", "0.1", "1.10", first["at"]]
    assert rows[1][6:9] == ['["x", null]', '{"a": 1.5, "b": null}', "true"]
    assert rows[2][1:3] == ["", "NaN"]


def test_times_inside_of_others_and_durations_were_written_as_python_writes_them(tmp_path: Path) -> None:
    """Midnight lost its time, and durations were `1 day, 1:00:00`."""
    path = tmp_path / "a.arrow"
    at = pa.timestamp("ns")
    columns = {
        "text": ["a", "b", "c"],
        "took": pa.array([90_061_001, -1, None], pa.duration("ms")),
        "fine": pa.array([1, 0, None], pa.duration("ns")),
        "in": pa.array(
            [{"at": 0, "took": 10**9}, None, {"at": 1}], pa.struct([("at", at), ("took", "duration[ns]")])
        ),
        "list": pa.array([[0, 1], None, []], pa.list_(pa.date32())),
        "map": pa.array([[("k", 0)], None, []], pa.map_(pa.string(), at)),
    }
    path.write_bytes(arrow(pa.table(columns)))
    first, second, third = map(json.loads, labelled(path, "ndjson").decode().splitlines())
    assert (first["took"], second["took"], third["took"]) == ("P1DT1H1M1.001S", "-P0DT0H0M0.001S", None)
    assert (first["fine"], second["fine"]) == ("P0DT0H0M0.000000001S", "P0DT0H0M0S")
    assert first["in"] == {"at": "1970-01-01 00:00:00.000000000", "took": "P0DT0H0M1S"}
    assert (third["in"]["at"], first["list"]) == (
        "1970-01-01 00:00:00.000000001",
        ["1970-01-01", "1970-01-02"],
    )
    assert first["map"] == [["k", "1970-01-01 00:00:00.000000000"]]


def test_types_that_parquet_lacks_ended_the_command_with_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    spans = pa.array([pa.MonthDayNano([1, 2, 3])] * 3)
    path.write_bytes(arrow(pa.table({"text": ["a", "b", "c"], "span": spans})))
    assert table_of(labelled(path, None))["span"].to_pylist() == spans.to_pylist()
    with pytest.raises(
        FileError, match=r"Parquet cannot hold these columns .*: name the output .csv or .ndjson"
    ):
        labelled(path, "parquet")


def test_categories_of_polars_ended_the_command_with_a_traceback(tmp_path: Path) -> None:
    """It writes them as dictionaries of string views, of which Arrow takes no values."""
    indices = pa.array([0, None, 1], pa.uint8())
    kind = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"], pa.string_view()), ordered=True)
    table = pa.table({"text": kind, "kind": kind})
    for write in (arrow, arrow_stream):
        path = tmp_path / "a.arrow"
        assert texts_of(path, write(table)) == ["a", "", "b"]
        cells = csv.DictReader(io.StringIO(labelled(path, "csv").decode()))
        assert [row["kind"] for row in cells] == ["a", "", "b"]
        assert table_of(labelled(path, "arrow"))["kind"].to_pylist() == ["a", None, "b"]
        assert table_of(labelled(path, "parquet"))["kind"].to_pylist() == ["a", None, "b"]


def test_a_workbook_keeps_values_and_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    content = xlsx(SHEET)
    # A cell that begins with = is a formula for openpyxl, whose last value no program has stored.
    assert texts_of(path, content) == ["good", "x", "7"]
    rows = sheet_of(labelled(path, None))
    assert rows[0] == ["id", "text", None, "at", None, "label", "score", "error"]
    assert rows[1] == [1, "good", 0.5, datetime(2025, 1, 2), None, "POSITIVE", 0.75, None]
    assert rows[2] == [None, "x", True, None, None, None, None, "poison"]
    assert (rows[3][1], rows[3][4]) == (7, timedelta(days=1, hours=5, minutes=59, seconds=59.999))
    lines = labelled(path, "csv").decode().splitlines()
    assert lines == [
        "id,text,,at,,label,score,error",
        "1,good,0.5,2025-01-02,,POSITIVE,0.75,",
        ",x,true,,,,,poison",
        ",7,,,P1DT5H59M59.999S,NEGATIVE,0.5,",
    ]
    table = table_of(labelled(path, "parquet"))
    assert table["column_3"].to_pylist() == ["0.5", "true", ""]


@pytest.mark.parametrize("form", ["parquet", "arrow", "xlsx"])
def test_a_table_of_text_becomes_one_with_types(tmp_path: Path, form: OutputFormat) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text,id\r\n007,=1+1,"a\r\nb"\r\n2,_x0041_,\x1b\r\n3,#N/A,\r\n')
    content = labelled(path, form)
    if form == "xlsx":
        assert sheet_of(content)[1][:4] == ["007", "=1+1", "a_x000D_\nb", "POSITIVE"]
        path = tmp_path / "b.xlsx"
        assert texts_of(path, content) == ["=1+1", "_x0041_", "#N/A"]
        assert [row.shown(())[2] for row in TextFile(path, Hints()).rows()] == ["a\r\nb", "\x1b", ""]
    else:
        found = table_of(content).to_pydict()
        assert found["id"] == ["007", "2", "3"]
        assert found["id_3"] == ["a\r\nb", "\x1b", ""]
        assert found["score"] == [0.75, None, 0.5]


def test_a_large_integer_is_text_in_a_sheet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(TABLE))
    rows = sheet_of(labelled(path, "xlsx"))
    assert rows[1][0] == "9223372036854775807"
    assert rows[1][6] == '["x", null]'


def test_the_sheet_with_the_column_is_read_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    assert texts_of(path, xlsx([[], ["text"], ["a"]], [["notes"], ["b"]])) == ["a"]
    numbered = Hints("2", header=False)
    assert texts_of(path, xlsx([[1, "a"], [2, "b", None]]), numbered) == ["a", "b"]
    assert sheet_of(labelled_two(path, numbered))[0] == [1, "a", "POSITIVE", 0.75, None]


def labelled_two(path: Path, hints: Hints, form: OutputFormat | None = None) -> bytes:
    file = TextFile(path, hints)
    return b"".join(
        Output.of(file.preview().format, form).blocks(file.names(), zip(file.rows(), RESULTS, strict=False))
    )


NUMBERS = pa.table({"text": [1, 2], "words": ["a", "b"], "at": [date(2025, 1, 1)] * 2})
LONG = "x" * 40_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.parquet",
            parquet(NUMBERS),
            "the column 'text' has no texts but values of the type int64. Choose one",
        ),
        (
            "a.parquet",
            parquet(NUMBERS.drop_columns(["text"])),
            "no column 'text'; the columns are 'words', 'at'",
        ),
        ("a.parquet", parquet(TABLE)[:-4], "damaged Parquet file"),
        ("a.csv", b"PAR1\0\0", "damaged Parquet file"),
        ("a.feather", arrow(TABLE)[:-9], "damaged Arrow file"),
        ("a.arrow", b"ARROW1\0\0" + bytes(40), "damaged Arrow file"),
        ("a.xlsx", b"PK\x03\x04\x14\0", "damaged XLSX file"),
        (
            "a.xlsx",
            xlsx([["text"], *([["a"]] * 500), ["a", "b"]]),
            "line 502: 2 columns, more than the 1 of the first rows: name each column",
        ),
        (
            "a.xlsx",
            xlsx([["text"], ["a"], [None] * 200 + ["far off"]]),
            "line 3: 201 columns, more than the 1 of the first rows",
        ),
        ("a.xlsx", xlsx([["words"], ["a"]]), "no column 'text'; the columns are 'words'"),
        ("a.xlsx", xlsx([["text", "text"], ["a", "b"]]), "2 columns are named 'text'"),
        ("a.zip", b"PK\x03\x04\x14\0", "an office document or a ZIP archive"),
        (
            "a.csv.gz",
            __import__("gzip").compress(parquet(TABLE), mtime=0),
            "compressed as a whole: decompress it",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_refused_alike(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileError) as command:
        list(TextFile(path, Hints()).texts())
    assert said in str(command.value)
    with pytest.raises(BadFile) as alone:
        list(FileRows([content], name, Hints()))
    assert str(alone.value) in str(command.value)
    if alone.value.line is not None:
        assert f"line {alone.value.line}: " in str(command.value)


def test_names_and_types_that_pyarrow_does_not_read_ended_with_a_traceback() -> None:
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    content = arrow(pa.table({"text": ["a"], "for": interval}))
    # One of these bytes says that the interval has not only months.
    units = [at for at, byte in enumerate(content) if byte == 2]
    one_less = [b"%b\0%b" % (content[:at], content[at + 1 :]) for at in units]
    said = []
    for damaged in (content.replace(b"for\0", b"f\xff\xff\0"), *one_less):
        try:
            list(FileRows([damaged], "a.arrow", Hints(), source=io.BytesIO(damaged)))
        except BadFile as error:
            said.append(str(error))
    assert said[0].startswith("damaged Arrow file ('utf-8' codec")
    assert "a column has a type that pyarrow does not read" in said


def test_a_workbook_in_strict_open_xml_was_said_to_have_no_sheet() -> None:
    strict = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(xlsx([["text"], ["a"]]))) as book, zipfile.ZipFile(strict, "w") as other:
        for name in book.namelist():
            used = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships"
            content = book.read(name).replace(
                used, b"http://purl.oclc.org/ooxml/officeDocument/relationships"
            )
            other.writestr(name, content)
    with pytest.raises(BadFile, match="in Strict Open XML: save it as another XLSX or as CSV"):
        list(FileRows([strict.getvalue()], "a.xlsx", Hints()))


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_files.typed.find_spec", lambda name: None)
    for content, said in ((parquet(TABLE), "Parquet needs pyarrow"), (xlsx(SHEET), "XLSX needs openpyxl")):
        with pytest.raises(BadFile, match=rf"a file of {said}: pip install 'millrace-server\[tables\]'"):
            formats.detect("a.bin", content)
    with pytest.raises(BadFile, match="needs pyarrow"):
        Output.of(formats.FileFormat("csv"), "parquet")


def test_a_format_that_the_file_does_not_have() -> None:
    with pytest.raises(BadFile, match="not a file of Parquet"):
        formats.detect("a.parquet", b"text\na\n", Hints(format="parquet"))
    with pytest.raises(BadFile, match="not a text file but a Parquet file"):
        formats.detect("a.csv", b"PAR1\0\0", Hints(format="csv"))


def test_a_sheet_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{LONG}\nb\nc\n")
    with pytest.raises(
        FileError, match=r"a cell has at most 32,767 characters: name the output .csv or .parquet"
    ):
        labelled(path, "xlsx")
    path.write_text("text\na\nb\nc\n")
    monkeypatch.setattr(sheets, "MAX_ROWS", 3)
    with pytest.raises(FileError, match="a sheet has at most 3 rows"):
        labelled(path, "xlsx")


def test_a_workbook_that_is_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(xlsx(SHEET))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/media/a", "w") as file:
        for _ in range(300):
            file.write(bytes(1024**2))
    with pytest.raises(FileError, match=r"the texts of the workbook have 3.* bytes, at most"):
        list(TextFile(path, Hints()).texts())


def test_a_table_that_takes_too_much_memory_ends_only_its_own_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its page says 400 MB, of the 40 KB that it has."""
    table = pa.table({"text": ["x" * 400_000_000]})
    # Statistics of its one text would take most of the time.
    bomb = parquet(table, compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(bomb) < 200_000
    with pytest.raises(BadFile, match="damaged"):
        list(FileRows([bomb], "a.parquet", Hints()))


def test_naming_repeated_columns_took_the_square_of_their_number(tmp_path: Path) -> None:
    """97 KB of header, whose rows come back as NDJSON, took 14 s; and names like those that are added."""
    path = tmp_path / "a.csv"
    taken = [f"a_{number}" for number in range(8000, 16_300)]
    path.write_text(",".join(["text", *taken, *["a"] * 8000]) + "\n" + "x" + "," * 16_300 + "\n")
    began = time.process_time()
    (line,) = labelled_two(path, Hints(), "ndjson").splitlines()
    assert len(json.loads(line)) == 16_302
    path.write_text(",".join(["text", "label", *(f"predicted_score_{n}" for n in range(2, 16_300))]) + "\n")
    assert labelled_two(path, Hints(), "csv").endswith(b",predicted_label,predicted_score,prediction_error\n")
    path.write_text(
        ",".join(["text", "label", "predicted_label", *(f"predicted_score_{n}" for n in range(2, 16_300))])
        + "\n"
    )
    assert b",predicted_label_16300," in labelled_two(path, Hints(), "csv")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("table", "status"), [(pa.table({"text": ["a"]}), 0), (pa.table({"text": [1]}), 3)])
def test_threads_of_arrow_aborted_the_process_when_it_had_read_everything(
    table: pa.Table, status: int
) -> None:
    """One in 120 good files was refused on a busy machine."""
    program = "atexit.register(os.abort); runpy.run_module('text_files', run_name='__main__')"
    order = {"name": "a.parquet", "hints": asdict(Hints()), "whole": True}
    sent = json.dumps(order).encode() + b"\n" + parquet(table)
    done = subprocess.run(
        [sys.executable, "-c", f"import atexit, os, runpy; {program}"], input=sent, capture_output=True
    )
    assert done.returncode == status, done.stderr
    assert (done.stderr[-1:] or done.stdout) == (
        b"}" if status else b'[["text"], {"text": 0}]\n[1, "a", ["a"]]\n'
    )


def test_the_columns_of_labels_are_those_of_the_file(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, None], "many": [["x", "y"], ["z"], []]})
    for name, write in WRITE.items():
        path = tmp_path / name
        path.write_bytes(write(table))
        rows = read_table(path, columns=Columns(hints=Hints())).rows
        assert [(row.text, row.labels) for row in rows] == [("a", ("1",)), ("b", ("0",))]
        rows = read_table(path, columns=Columns(label="many", separator=";", hints=Hints())).rows
        assert [row.labels for row in rows] == [("x", "y"), ("z",), ()]
    path = tmp_path / "a.xlsx"
    path.write_bytes(xlsx([["text", "label"], ["a", 1], ["b", "no"]]))
    assert [row.labels for row in read_table(path, columns=Columns(hints=Hints())).rows] == [("1",), ("no",)]


def test_only_the_rows_with_a_result_come_back_from_the_other_process() -> None:
    content = parquet(TABLE)
    lines = [json.dumps(one).encode() + b"\n" for one in RESULTS[:2]]
    found = table_of(
        b"".join(label_isolated("a.parquet", Hints(), (len(content), [content]), lines, "parquet"))
    )
    assert found["label"].to_pylist() == ["POSITIVE", None]
    assert found["id"].to_pylist() == [2**63 - 1, None]


def test_an_error_while_results_are_sent_is_raised_and_ends_the_other_process() -> None:
    content = parquet(TABLE)

    def results() -> Any:
        yield json.dumps(RESULTS[0]).encode() + b"\n"
        raise ConnectionError("Redis is away")

    with pytest.raises(ConnectionError, match="Redis is away"):
        b"".join(label_isolated("a.parquet", Hints(), (len(content), [content]), results(), "csv"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that read tables from now on."""
    processes: list[Any] = []
    popen = subprocess.Popen

    def start(*words: Any, **more: Any) -> Any:
        processes.append(popen(*words, **more))
        return processes[-1]

    monkeypatch.setattr(isolated.subprocess, "Popen", start)
    return processes


MANY = parquet(pa.table({"text": ["a text of some length"] * 100_000}))


def test_a_reader_that_is_left_ends_the_other_process(started: list[Any]) -> None:
    assert next(iter(FileRows([MANY], "a.parquet", Hints()))).text == "a text of some length"
    (process,) = started
    assert process.wait(30) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_other_process_saw_the_password_of_redis(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REDIS_URL", "AWS_SECRET_ACCESS_KEY", "MILLRACE_REDIS_URL"):
        monkeypatch.setenv(name, "redis://user:secret@redis")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    rows = iter(FileRows([MANY], "a.parquet", Hints()))
    next(rows)
    seen = Path(f"/proc/{started[0].pid}/environ").read_text()
    assert "secret" not in seen
    assert "LC_ALL=C.UTF-8" in seen


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_of_a_few_kilobytes_was_read_for_two_minutes(started: list[Any]) -> None:
    larger = parquet(pa.table({"text": ["a"], "more": [os.urandom(3 * 1024**2)]}))
    for content, seconds in ((MANY, 10), (larger, 10 + 8 * 3)):
        next(iter_of := iter(FileRows([content], "a.parquet", Hints(), whole=False)))
        limits = Path(f"/proc/{started[-1].pid}/limits").read_text()
        assert limits.partition("Max cpu time")[2].split()[:2] == [str(seconds)] * 2
        del iter_of


def test_a_reason_longer_than_a_pipe_held_its_reader_for_ever() -> None:
    """Four uploads whose column of texts is a struct of 6,000 fields held all threads for uploads."""
    wide = pa.struct([(f"a field with the number {number}", pa.int64()) for number in range(6000)])
    others = {"x" * 40_000 + str(number): ["a"] for number in range(20)}
    table = pa.table({"text": pa.array([None], wide), **others})
    with pytest.raises(BadFile, match="has no texts but values of the type struct<") as found:
        list(FileRows([arrow_stream(table)], "a.arrows", Hints()))
    assert len(str(found.value)) < 200
    assert not found.value.columns


def test_an_error_of_a_library_longer_than_a_pipe_held_its_reader_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = "def load_workbook(*given, **more):\n    raise BaseException('x' * 300_000)\nWorkbook = None\n"
    (tmp_path / "openpyxl").mkdir()
    (tmp_path / "openpyxl/__init__.py").write_text(broken)
    (tmp_path / "openpyxl/cell.py").write_text("WriteOnlyCell = None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(isolated.__file__).parents[1]}")
    with pytest.raises(BadFile, match="damaged, or reading it takes more than 512 MiB of memory"):
        list(FileRows([xlsx(SHEET)], "a.xlsx", Hints()))


def test_a_reader_could_not_end_while_the_other_process_computed() -> None:
    waits = Event()

    def results() -> Any:
        yield json.dumps(RESULTS[0]).encode() + b"\n"
        waits.wait(60)
        yield json.dumps(RESULTS[1]).encode() + b"\n"

    content = parquet(TABLE)
    blocks = label_isolated("a.parquet", Hints(), (len(content), [content]), results(), "parquet")
    assert next(blocks) == b""
    waits.set()
    assert table_of(b"".join(blocks))["label"].to_pylist() == ["POSITIVE", None]


@pytest.mark.parametrize("apart", [False, True])
def test_a_file_that_could_not_be_read_stayed_in_memory_until_garbage_was_collected(apart: bool) -> None:
    def broken() -> Iterator[bytes]:
        block = bytes(LARGE)
        yield block
        raise OSError("the client has left")

    with collected_by_hand():
        with suppress(OSError):
            if apart:
                list(label_isolated("a.xlsx", Hints(), (2 * LARGE, broken()), [], "xlsx"))
            else:
                list(read_isolated("a.xlsx", Hints(), broken(), whole=True))
        found = large_garbage()
    assert not found, "\n".join(found)


def test_what_reads_for_the_api_imports_no_library_of_tables() -> None:
    program = (
        "import sys; from text_files.rows import FileRows; from text_files.formats import Hints;"
        "print([row.text for row in FileRows([sys.stdin.buffer.read()], 'a.parquet', Hints())],"
        "[one for one in ('pyarrow', 'openpyxl', 'numpy') if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=parquet(TABLE), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"{TEXTS} []"


def test_every_row_group_that_was_read_stayed_in_memory(tmp_path: Path) -> None:
    """Five million rows, 205 MiB, took 423 MiB: Arrow kept what it had read ahead."""
    path = tmp_path / "a.parquet"
    texts = [random.Random(number).randbytes(500).hex() for number in range(4000)]
    path.write_bytes(parquet(pa.table({"text": texts}), row_group_size=500, use_dictionary=False))
    before, most = pa.total_allocated_bytes(), 0
    for _ in TextFile(path, Hints()).rows():
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < path.stat().st_size / 2


def test_many_rows_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    count = 70_000
    path.write_bytes(
        parquet(pa.table({"id": range(count), "text": [f"t{number}" for number in range(count)]}))
    )
    file = TextFile(path, Hints())
    results = ([{"label": f"L{number}", "score": 0.5}] for number in range(count))
    out = tmp_path / "out.parquet"
    with out.open("wb") as written:
        written.writelines(
            Output.of(file.preview().format).blocks(file.names(), zip(file.rows(), results, strict=True))
        )
    found = table_of(out.read_bytes())
    assert found["label"].to_pylist() == [f"L{number}" for number in range(count)]
    assert found["id"].to_pylist() == list(range(count))
