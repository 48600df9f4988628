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


def test_an_empty_line_of_one_column_is_an_empty_text(file: Path) -> None:
    assert texts(file, "text\na\n\nb\n\n", "csv") == ["a", "", "b"]


def test_lines_of_json(file: Path) -> None:
    assert texts(file, '"a"\n\n{"body": "b", "id": 1}\n', "ndjson", "body") == ["a", "b"]


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("csv", "id,words\n1,a\n", "no column 'text'"),
        ("csv", "", "no column 'text'"),
        ("csv", "id,text\n1,a\n2\n", "line 3: 1 column, but the first line names 2"),
        ("csv", "id,text\n1,one, two\n", "line 2: 3 columns, but the first line names 2"),
        ("csv", "id,text\n1,a\n\n2,b\n", "line 3: empty line, but the first line names 2 columns"),
        ("csv", "id,text,id\n1,a,2\n", "two columns 'id'"),
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


def written(file: Path, form: Format, kind: type[CsvWriter] | type[NdjsonWriter]) -> str:
    """What is written of two rows, of which the second has an error."""
    source, out = TextFile(file, form, "text"), io.StringIO(newline="")
    writer = kind(out, source.names())
    for row, result in zip(source.rows(), (POSITIVE, FAILURE), strict=True):
        writer.write(row, result)
    return out.getvalue()


def rows_of(table: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table, newline="")))


def test_a_table_keeps_its_columns_and_gets_three(file: Path) -> None:
    file.write_text(",id,text\n0,1,a\n1,2,b\n")
    assert rows_of(written(file, "csv", CsvWriter)) == [
        ["", "id", "text", "label", "score", "error"],
        ["0", "1", "a", "POSITIVE", "0.75", ""],
        ["1", "2", "b", "", "", "poison"],
    ]


def test_columns_of_the_same_names_are_kept(file: Path) -> None:
    file.write_text("text,label\na,old\nb,old\n")
    assert rows_of(written(file, "csv", CsvWriter)) == [
        ["text", "label", "predicted_label", "predicted_score", "prediction_error"],
        ["a", "old", "POSITIVE", "0.75", ""],
        ["b", "old", "", "", "poison"],
    ]
    file.write_text("text,error,predicted_score\na,x,1\nb,y,2\n")
    assert rows_of(written(file, "csv", CsvWriter))[0][3:] == [
        "predicted_label_2",
        "predicted_score_2",
        "prediction_error_2",
    ]


def test_an_object_keeps_its_fields_and_gets_one(file: Path) -> None:
    file.write_text('{"id": 1, "text": "ä"}\n"b"\n')
    first, second = map(json.loads, written(file, "ndjson", NdjsonWriter).splitlines())
    assert first == {"id": 1, "text": "ä", "prediction": POSITIVE}
    assert second == {"text": "b", **FAILURE}


def test_fields_of_the_same_names_are_kept(file: Path) -> None:
    file.write_text('"a"\n{"text": "b", "error": "mine"}\n')
    first, second = map(json.loads, written(file, "ndjson", NdjsonWriter).splitlines())
    assert first == {"text": "a", "predicted": POSITIVE}
    assert second == {"text": "b", "error": "mine", "prediction_error": FAILURE["error"]}


def test_a_table_of_objects_has_the_fields_of_all(file: Path) -> None:
    file.write_text('{"text": "a"}\n{"id": 2, "text": "b"}\n')
    assert rows_of(written(file, "ndjson", CsvWriter)) == [
        ["text", "id", "label", "score", "error"],
        ["a", "", "POSITIVE", "0.75", ""],
        ["b", "2", "", "", "poison"],
    ]
