from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from time import process_time

import pytest

from millrace.classify import output_format
from millrace.errors import CommandError
from text_files.errors import FileError
from text_files.formats import FileFormat, FormatName, Hints
from text_files.output import Output, OutputFormat
from text_files.source import TextFile

POSITIVE = [{"label": "NEGATIVE", "score": 0.25}, {"label": "POSITIVE", "score": 0.75}]
FAILURE = {"error": {"code": "poison", "detail": "it ends workers"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "in"


def texts(file: Path, content: str | bytes, form: FormatName, column: str = "text") -> list[str]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(TextFile(file, Hints(column, form)).texts())


@pytest.mark.parametrize(
    ("path", "source", "written"),
    [
        ("out.csv", "txt", "csv"),
        ("out.TSV", "csv", "tsv"),
        ("out.jsonl", "csv", "ndjson"),
        ("out", "json", "ndjson"),
        ("out", "tsv", "tsv"),
        ("out", "txt", "csv"),
    ],
)
def test_the_name_of_the_output_says_what_is_written(path: str, source: FormatName, written: str) -> None:
    assert output_format(path, FileFormat(source)) == written


@pytest.mark.parametrize("suffix", [".xls", ".json", ".txt"])
def test_an_output_of_another_format_is_refused(suffix: str) -> None:
    """`-o out.xls` wrote CSV."""
    with pytest.raises(CommandError, match=rf"^cannot write \{suffix} files: name the output .csv, .tsv,"):
        output_format(f"out{suffix}", FileFormat("csv"))


def test_a_text_a_line(file: Path) -> None:
    assert texts(file, "a\n\nb, c\r\nlast", "txt") == ["a", "b, c", "last"]


def test_a_column_of_a_table(file: Path) -> None:
    assert texts(file, 'id,body\r\n1,"a\nb, ""c"""\r\n2,d\r\n', "csv", "body") == ['a\nb, "c"', "d"]


def test_an_empty_line_of_one_column_is_an_empty_text(file: Path) -> None:
    assert texts(file, "text\na\n\nb\n\n", "csv") == ["a", "", "b"]


def test_lines_of_json(file: Path) -> None:
    assert texts(file, '"a"\n\n{"body": "b", "id": 1}\n', "ndjson", "body") == ["a", "b"]


COLUMN = " Choose one with --column."
# What the user reads, word for word.
SAID: list[tuple[str, str | bytes, str]] = [
    ("a.csv", "id,words\n1,a\n", f", line 1: no column 'text'; the columns are 'id', 'words'.{COLUMN}"),
    (
        "a.csv",
        "id,Text\n1,a\n",
        f", line 1: no column 'text'; the columns are 'id', 'Text': did you mean 'Text'?{COLUMN}",
    ),
    (
        "a.csv",
        "id^text\n1^a\n",
        ", line 1: no column 'text'; the columns are 'id^text': did you mean 'id^text'?"
        f"{COLUMN[:-1]}, or name the --delimiter between columns.",
    ),
    ("a.csv", "", ": the file is empty."),
    ("a.csv", "id,text\n1,a\n2\n", ", line 3: 1 column, but the first line names 2."),
    ("a.csv", "id,text\n1,one, two\n", ", line 2: 3 columns, but the first line names 2."),
    (
        "a.csv",
        "id,text,text\n1,a,b\n",
        ", line 1: 2 columns are named 'text': name one by its number, 2 or 3.",
    ),
    ("a.csv", "id,text\n1,a\0\n", ": not a text file: it contains NUL bytes."),
    (
        "a.csv",
        "id,text\n" + "1,a\n" * 20_000 + "2,\0\n",
        ", line 20002: a NUL character, so this is not a text file.",
    ),
    ("a.csv", 'text\n"a\n', ", line 2: the file ends inside of a quoted field: a quote is not closed."),
    (
        "a.ndjson",
        '"a"\n{"b": 1}\n',
        f", line 2: neither a string nor an object with a string 'text'; its fields are 'b'.{COLUMN}",
    ),
    ("a.ndjson", '"a"\n"b\n', ", line 2: not valid JSON."),
    (
        "a.json",
        '{"texts": ["a"]}',
        ': expected a list of texts or objects, or {"text": [...]}; one object per line is NDJSON.',
    ),
    ("a.json", '["a", 5]', ": item 2: neither a string nor an object with a string 'text'."),
    ("a.json", '["a", "b"', ": item 3: expected a comma or a closing bracket."),
    ("a.json", '["a"] x', ": unexpected data after the list."),
    (
        "a.txt",
        "good\nä\n".encode("latin-1"),
        ", line 2: not valid UTF-8. Name its encoding, e.g. --encoding windows-1252.",
    ),
    ("a.ndjson", '"\\ud83d"\n', ", line 1: not valid Unicode: unpaired surrogate."),
    ("a.txt", b"\x89PNG\r\n\x1a\n\0\0", ": not a text file but a PNG image."),
    (
        "a.docx",
        b"PK\x03\x04\x14\0",
        ": not a text file but an office document or a ZIP archive: unpack it, or save it as XLSX or CSV.",
    ),
    ("a.bin", b"abc\0def", ": not a text file: it contains NUL bytes."),
    ("a.csv.gz", gzip.compress(b"text\n" * 99, mtime=0)[:-9], ": the gzip file ends too early."),
    (
        "a.csv.gz",
        gzip.compress(b"text\na\n")
        .replace(b"\0", b"\x08", 1)
        .replace(b"\xff", b"\xff" + b"n" * 70_000 + b"\0", 1),
        ": the first 65536 bytes of the gzip file are only headers, such as a name: compress it again.",
    ),
    (
        "a.csv.gz",
        gzip.compress(b"") * 4000 + gzip.compress(b"text\na\n"),
        ": the first 65536 bytes of the gzip file are only headers, such as a name: compress it again.",
    ),
]


@pytest.mark.parametrize(("name", "content", "said"), SAID)
def test_what_makes_no_sense_is_refused_in_words(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FileError) as refused:
        list(TextFile(path, Hints()).texts())
    assert str(refused.value) == f"{path}{said}"


def written(file: Path, form: FormatName, kind: OutputFormat) -> str:
    """What is written of two rows, of which the second has an error."""
    source = TextFile(file, Hints("text", form))
    rows = zip(source.rows(), (POSITIVE, FAILURE), strict=True)
    return "".join(Output.of(source.preview().format, kind).lines(source.names(), rows))


def rows_of(table: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table, newline="")))


def test_a_table_keeps_its_columns_and_gets_three(file: Path) -> None:
    file.write_text(",id,text\n0,1,a\n1,2,b\n")
    assert rows_of(written(file, "csv", "csv")) == [
        ["", "id", "text", "label", "score", "error"],
        ["0", "1", "a", "POSITIVE", "0.75", ""],
        ["1", "2", "b", "", "", "poison"],
    ]


def test_columns_of_the_same_names_are_kept(file: Path) -> None:
    file.write_text("text,label\na,old\nb,old\n")
    assert rows_of(written(file, "csv", "csv")) == [
        ["text", "label", "predicted_label", "predicted_score", "prediction_error"],
        ["a", "old", "POSITIVE", "0.75", ""],
        ["b", "old", "", "", "poison"],
    ]
    file.write_text("text,error,predicted_score\na,x,1\nb,y,2\n")
    assert rows_of(written(file, "csv", "csv"))[0][3:] == [
        "predicted_label_2",
        "predicted_score_2",
        "prediction_error_2",
    ]


def test_an_object_keeps_its_fields_and_gets_one(file: Path) -> None:
    file.write_text('{"id": 1, "text": "ä"}\n"b"\n')
    first, second = map(json.loads, written(file, "ndjson", "ndjson").splitlines())
    assert first == {"id": 1, "text": "ä", "prediction": POSITIVE}
    assert second == {"text": "b", **FAILURE}


def test_fields_of_the_same_names_are_kept(file: Path) -> None:
    file.write_text('"a"\n{"text": "b", "error": "mine"}\n')
    first, second = map(json.loads, written(file, "ndjson", "ndjson").splitlines())
    assert first == {"text": "a", "predicted": POSITIVE}
    assert second == {"text": "b", "error": "mine", "prediction_error": FAILURE["error"]}


def test_a_table_of_objects_has_the_fields_of_all(file: Path) -> None:
    file.write_text('{"text": "a"}\n{"id": 2, "text": "b"}\n')
    assert rows_of(written(file, "ndjson", "csv")) == [
        ["text", "id", "label", "score", "error"],
        ["a", "", "POSITIVE", "0.75", ""],
        ["b", "2", "", "", "poison"],
    ]


def test_columns_of_one_name_are_fields_of_different_names(file: Path) -> None:
    file.write_text("Comment,text,Comment,\n1,a,2,3\n1,b,2,3\n")
    first = json.loads(written(file, "csv", "ndjson").splitlines()[0])
    assert list(first) == ["Comment", "text", "Comment_3", "column_4", "prediction"]


def test_names_for_fields_cost_no_more_than_their_number(file: Path) -> None:
    names = ["text", *(["a"] * 16_000)]
    file.write_text(
        ",".join(names) + "\n" + ",".join("b" for _ in names) + "\n" + ",".join("c" for _ in names)
    )
    began = process_time()
    written(file, "csv", "ndjson")
    assert process_time() - began < 2
