from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.text_files import CsvWriter, Format, NdjsonWriter, TextFile, format_of

POSITIVE = [{"label": "NEGATIVE", "score": 0.25}, {"label": "POSITIVE", "score": 0.75}]
FAILURE = {"error": {"code": "poison", "detail": "it ends workers"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "in"


def texts(file: Path, content: str, form: Format, column: str = "text") -> list[str]:
    file.write_bytes(content.encode())
    return list(TextFile(file, form, column).texts())


def test_the_name_of_a_file_says_what_it_holds() -> None:
    names = ("a.csv", "a.NDJSON", "a.jsonl", "a.txt", "a.parquet", "-")
    assert [format_of(name) for name in names] == ["csv", "ndjson", "ndjson", "txt", None, None]


def test_a_text_a_line(file: Path) -> None:
    assert texts(file, "a\n\nb, c\r\nlast", "txt", "ignored") == ["a", "", "b, c", "last"]


def test_a_column_of_a_table(file: Path) -> None:
    assert texts(file, 'id,body\r\n1,"a\nb, ""c"""\r\n2,d\r\n', "csv", "body") == ['a\nb, "c"', "d"]


def test_lines_of_json(file: Path) -> None:
    assert texts(file, '"a"\n\n{"body": "b", "id": 1}\n', "ndjson", "body") == ["a", "b"]


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("csv", "id,words\n1,a\n", "no column 'text'"),
        ("csv", "", "no column 'text'"),
        ("csv", "id,text\n1,a\n2\n", "line 3: too few columns"),
        ("csv", 'text\n"a\n', "line 2"),
        ("ndjson", '"a"\n{"b": 1}\n', "line 2: neither a string"),
        ("ndjson", '"a"\n"b\n', "line 2: not valid JSON"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_line(file: Path, form: Format, content: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        texts(file, content, form)


def test_another_encoding_is_told(file: Path) -> None:
    file.write_bytes("ä\n".encode("latin-1"))
    with pytest.raises(CommandError, match="not UTF-8"):
        list(TextFile(file, "txt", "text").texts())


def test_a_table_keeps_its_columns_and_gets_three(file: Path) -> None:
    file.write_text("id,text,label\n1,a,old\n2,b,old\n")
    out = io.StringIO(newline="")
    writer = CsvWriter(out)
    for row, result in zip(TextFile(file, "csv", "text").rows(), (POSITIVE, FAILURE), strict=True):
        writer.write(row, result)
    assert list(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [
        ["id", "text", "label", "score", "error"],
        ["1", "a", "POSITIVE", "0.75", ""],
        ["2", "b", "", "", "poison"],
    ]


def test_an_object_keeps_its_fields_and_gets_one() -> None:
    out = io.StringIO()
    writer = NdjsonWriter(out)
    writer.write({"id": 1, "text": "ä"}, POSITIVE)
    writer.write({"id": 2, "text": "b"}, FAILURE)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == {"id": 1, "text": "ä", "prediction": POSITIVE}
    assert second == {"id": 2, "text": "b", **FAILURE}
