"""Reading, surveying and dividing labelled files, and one sentence for each that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from model_store.errors import BadTable, BadTraining, ModelError
from model_store.training.data import SLICE, encode, hold_out, without_texts_of
from model_store.training.recipes import choose
from model_store.training.survey import survey, without_duplicates
from model_store.training.table import Columns, LabelledRow, Table, read_table
from tests.unit.text_files.typed_files import pa, parquet

TAGS = Columns(label="tags", separator=";")


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'label,text\na,"one, two"\nb,three\n'),
        ("a.csv", 'label;text\na;"one, two"\nb;three\n'),
        ("a.csv", '\ufefflabel,text\r\na,"one, two"\r\n\r\nb,three\r\n'),
        ("a.tsv", "label\ttext\na\tone, two\nb\tthree\n"),
        ("a.ndjson", '{"text": "one, two", "label": "a"}\n\n{"label": "b", "text": "three"}\n'),
    ],
)
def test_the_same_rows_in_every_format(tmp_path: Path, name: str, content: str) -> None:
    rows = read_table(_write(tmp_path / name, content), columns=Columns()).rows
    assert rows == [LabelledRow("one, two", ("a",)), LabelledRow("three", ("b",))]


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tsv", 'text\tlabel\n"so so\tx\nhe said "no" twice\ty\n')
    assert [row.text for row in read_table(path, columns=Columns()).rows] == ['"so so', 'he said "no" twice']


def test_several_labels_a_text(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,tags\none,b; a;b\ntwo,\n")
    assert [row.labels for row in read_table(path, columns=TAGS).rows] == [("b", "a"), ()]
    path = _write(tmp_path / "a.jsonl", '{"text": "one", "tags": ["b", "a"]}\n')
    assert read_table(path, columns=TAGS).rows[0].labels == ("b", "a")


def test_a_label_called_label_and_labels_that_are_numbers(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label\ntext,label\nother,1\n")
    assert [row.labels for row in read_table(path, columns=Columns()).rows] == [("label",), ("1",)]
    path = _write(tmp_path / "a.ndjson", '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n')
    assert [row.labels for row in read_table(path, columns=Columns()).rows] == [("1",), ("true",)]


def test_several_files_are_one_table(tmp_path: Path) -> None:
    old = _write(tmp_path / "old.csv", "text,label\nx,a\n")
    new = _write(tmp_path / "new.csv", "label,text\nb,y\n")
    table = read_table(old, new, columns=Columns())
    assert ([row.labels for row in table.rows], table.name) == ([("a",), ("b",)], "old.csv, new.csv")


def test_a_file_whose_name_is_no_utf_8_has_one_that_a_report_can_have(tmp_path: Path) -> None:
    """A training run ended with a traceback when it wrote its report."""
    name = _write(tmp_path / "caf\udce9.csv", "text,label\nx,a\n")
    assert read_table(name, columns=Columns()).name == r"caf\xe9.csv"


def test_rows_without_text_or_label_are_counted(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path / "a.csv", "text,label\n ,a\nx,\ny,a\n"), columns=Columns())
    assert (table.total, table.empty, table.unlabelled, len(table.rows)) == (3, 1, 1, 1)


def test_a_pipe_is_refused_instead_of_read_in_part(tmp_path: Path) -> None:
    """Its first block was read to see whether it is text, and was gone when the rows were read."""
    pipe = tmp_path / "a.csv"
    os.mkfifo(pipe)
    kinds = (pipe, "pipe or device"), (Path(os.devnull), "pipe or device"), (tmp_path, "directory")
    for path, kind in kinds:
        with pytest.raises(BadTable, match=f"is a {kind}: name a file"):
            read_table(path, columns=Columns())


def test_of_a_long_file_a_random_sample_is_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label\n" + "".join(f"t{n},a\n" for n in range(5000)))
    table = read_table(path, columns=Columns(), most=500)
    numbers = [int(row.text[1:]) for row in table.rows]
    assert (table.total, len(numbers), len(set(numbers))) == (5000, 500, 500)
    assert 2100 < sum(numbers) / 500 < 2900
    assert table.rows == read_table(path, columns=Columns(), most=500).rows


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_text_longer_than_csv_fields_may_be_by_default_is_read(tmp_path: Path, name: str) -> None:
    """It was refused as a quote that is never closed, even in a TSV, which has no quotes."""
    separator = "," if name == "a.csv" else "\t"
    lines = [separator.join(row) + "\n" for row in (("text", "label"), ("x" * 200_000, "a"))]
    (row,) = read_table(_write(tmp_path / name, "".join(lines)), columns=Columns()).rows
    assert len(row.text) == 20_000


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.csv",
            b"PK\x03\x04\x00\x00",
            "not a text file but an office document or a ZIP archive: unpack it, or save it as XLSX or CSV",
        ),
        ("a.csv", b"text,label\n" + b"x,y\n" * 20000 + b"\0", "line 20002: a NUL character"),
        (
            "a.csv",
            "text,label\nf\xfcr,a\n".encode("latin-1"),
            "line 2: not valid UTF-8. Name its encoding, e.g. --encoding windows-1252.",
        ),
        (
            "a.csv",
            'text,label\nx,a\n"never closed,b\nand so on,c\n',
            "line 3: the file ends inside of a quoted field: a quote is not closed",
        ),
        ("a.csv", 'text,label\n"' + "x\n" * 100_000, "line 2: the file ends inside of a quoted field"),
        ("a.csv", 'text,label\n"a"b,c\n', "line 2: ',' expected after '\"'"),
        ("a.csv", "text,label\nx\n", "line 2: 1 column, but the first line names 2"),
        ("a.csv", "text,label\n", "contains no labelled text"),
        (
            "a.json",
            '[{"text": "a", "sentiment": "x"}, {"text": " "}]',
            "no labelled text: of 2 rows, 1 have no text, 1 no 'label', 0 were not accepted",
        ),
        ("a.csv", "", "a.csv: the file is empty."),
        (
            "a.csv",
            "Text;topic\nx;y\n",
            "the columns are 'Text', 'topic': did you mean 'Text'? Choose one with --column.",
        ),
        (
            "a.csv",
            "text,topic\nx,y\n",
            "no column 'label'; the columns are 'text', 'topic'. Choose one with --label-column.",
        ),
        ("a.csv", "text,text,label\nx,y,z\n", "2 columns are named 'text': name one by its number, 1 or 2"),
        ("a.csv", "text,label\n" + "x" * 1_200_000, "line 2: longer than 1048576 characters"),
        ("a.csv", "text,label\nx," + "y" * 300 + "\n", "line 2: a label has more than 200 characters"),
        ("a.xlsx", "<html><table>", "not a file of texts but an HTML or XML page"),
        (
            "a.csv",
            'text,label\n"' + "x\n" * 600_000,
            "line 2: a record is longer than 1048576 characters; perhaps a quote is not closed",
        ),
        (
            "a.ndjson",
            '{"text": "a\\ud83d", "label": "a"}\n',
            "line 1: not valid Unicode: unpaired surrogate.",
        ),
        ("a.ndjson", '{"text": "a", "label": "\\ud83d"}\n', "line 1: not valid Unicode: unpaired surrogate."),
        ("a.ndjson", "{'text'\n", "line 1: not valid JSON"),
        ("a.ndjson", "[" * 100_000 + "\n", "line 1: not valid JSON"),
        (
            "a.ndjson",
            '{"text": 1, "label": "a"}\n',
            "line 1: 'text' is a number and not a string",
        ),
        ("a.ndjson", '{"text": "x", "label": ["a"]}\n', "for several labels a text, add --separator"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, sentence: str) -> None:
    with pytest.raises(BadTable) as caught:
        read_table(_write(tmp_path / name, content), columns=Columns())
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadTable, match=r"nowhere\.csv cannot be read: No such file"):
        read_table(tmp_path / "nowhere.csv", columns=Columns())


def _rows(**labels: int) -> list[LabelledRow]:
    return [
        LabelledRow(f"{name} {number}", (name,)) for name, count in labels.items() for number in range(count)
    ]


def _survey(
    rows: list[LabelledRow], *, multi_label: bool = False, train: list[LabelledRow] | None = None
) -> str:
    table = Table("a.csv", rows, total=len(rows))
    found = survey(table, rows if train is None else train, multi_label=multi_label, in_both=2, over_long=3)
    return "\n".join(found.lines())


def test_the_survey_says_what_the_data_are_like() -> None:
    rows = [*_rows(a=30, b=10), LabelledRow("A  0", ("a",)), LabelledRow("a 0", ("b",))]
    said = _survey(rows)
    assert "rows                 42 in a.csv" in said
    assert "duplicates           1:" in said
    assert "contradictions       1:" in said
    assert "in both parts        2:" in said
    assert "too long             3:" in said
    assert "labels               2, one a text; the commonest has 2.8 times the rows of the rarest" in said
    assert "  a  31 (73.8%)" in said
    assert "without text" not in said


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("Good", "good", "'Good' (5 rows) and 'good' (3 rows)"),
        ("caf\u00e9", "cafe\u0301", r"'café' (5 rows) and 'cafe\u0301' (3 rows)"),
        ("Straße", "STRASSE", "'Straße' (5 rows) and 'STRASSE' (3 rows)"),
        ("\uff47ood", "good", "'\uff47ood' (5 rows) and 'good' (3 rows)"),
        ("good", "good\u200b", r"'good' (5 rows) and 'good\u200b' (3 rows)"),
        ("good", "\ufeffgood", r"'good' (5 rows) and '\ufeffgood' (3 rows)"),
        ("so\xadso", "soso", r"'so\xadso' (5 rows) and 'soso' (3 rows)"),
        ("so  so", "so so", "'so  so' (5 rows) and 'so so' (3 rows)"),
        ("1", "1.0", "'1' (5 rows) and '1.0' (3 rows)"),
        ("good", '"good"', "'good' (5 rows) and '\"good\"' (3 rows)"),
    ],
)
def test_labels_that_look_the_same_are_pointed_out(one: str, other: str, shown: str) -> None:
    said = _survey(_rows(**{one: 5, other: 3, "bad": 4}))
    assert f"{shown} are different labels: if they mean the same, write them alike and train again" in said


def test_labels_that_look_like_missing_values_are_pointed_out() -> None:
    said = _survey(_rows(**{"good": 5, "N/A": 3, "NaN": 2}))
    assert "the label 'N/A' (3 rows) looks like a missing value: if it is one, leave it empty and" in said
    assert "the label 'NaN' (2 rows)" in said
    assert "missing" not in _survey(_rows(good=5, nothing=3))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_that_an_annotator_rejected_were_trained_as_accepted(tmp_path: Path, form: str) -> None:
    """As Prodigy writes them, and as tables that were made from that have them."""
    path = tmp_path / f"a.{form}"
    answers = ("accept", "reject", "ignore")
    rows = [{"text": answer, "label": "a", "answer": answer, "_input_hash": 1} for answer in answers]
    lines = {
        "jsonl": map(json.dumps, rows),
        "csv": ["text,label,answer", *(f"{one},a,{one}" for one in answers)],
    }
    if form == "parquet":
        path.write_bytes(parquet(pa.Table.from_pylist(rows)))
    else:
        _write(path, "\n".join(lines[form]))
    table = read_table(path, columns=Columns())
    assert ([row.text for row in table.rows], table.rejected) == (["accept"], 2)
    table = read_table(path, columns=Columns(label="answer"))
    assert [row.labels for row in table.rows] == [("accept",), ("reject",), ("ignore",)]


def test_labels_that_differ_by_signs_are_no_spellings_of_one() -> None:
    assert "warning" not in _survey(_rows(**{"C": 2, "C++": 2, "C#": 2, ":)": 2, ":(": 2, '"': 2, "'": 2}))


def test_of_many_similar_labels_ten_groups_are_listed() -> None:
    said = _survey(_rows(**{f"{word} {n}": 2 for n in range(12) for word in ("good", "Good")}))
    assert said.count("are different labels") == 10
    assert said.endswith("2 more groups of similar labels")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            _rows(good=9, bad=9, Good=1),
            "The label 'Good' has fewer than two texts: add some or leave it out, or write it as 'good' if "
            "it means the same.",
        ),
        (_rows(a=9), "has only one label ('a'), so there is nothing to tell apart"),
        (_rows(a=9, b=1, c=1), "The label 'b' (and 1 more) has fewer than two texts"),
        (_rows(**{f"l{n}": 1 for n in range(30)}), "has 30 labels for 30 texts: is --label-column right?"),
    ],
)
def test_data_that_cannot_work_are_refused(rows: list[LabelledRow], sentence: str) -> None:
    with pytest.raises(BadTraining) as caught:
        _survey(rows)
    assert sentence in str(caught.value)


def test_a_label_that_only_the_test_has_is_refused() -> None:
    rows = _rows(a=5, b=5)
    with pytest.raises(ModelError, match="All texts of the label 'b' are in the test part"):
        _survey(rows, train=rows[:5])


def test_the_hold_out_is_stratified_and_keeps_texts_together() -> None:
    rows = [*_rows(a=100, b=20, c=2), LabelledRow("A 7", ("b",)), LabelledRow("a  7", ("c",))]
    train, test = hold_out(rows, 0.2, 1)
    assert sorted(map(repr, [*train, *test])) == sorted(map(repr, rows))
    counts = [sum(name in row.labels for row in test) for name in "abc"]
    assert counts[0] in (19, 20)
    assert counts[1] in (4, 5)
    assert counts[2] in (1, 2)
    assert (
        len({"7" in row.text.split() for part in (train, test) for row in part if row.text[-2:] == " 7"}) <= 1
    )
    assert not without_texts_of(train, test) or len(without_texts_of(train, test)) == len(train)
    assert hold_out(rows, 0.2, 1) == (train, test)
    assert hold_out(rows, 0.2, 2) != (train, test)


def test_duplicates_are_used_once() -> None:
    rows = [LabelledRow("a b", ("x",)), LabelledRow(" A  b", ("x",)), LabelledRow("a b", ("y",))]
    assert without_duplicates(rows) == [rows[0], rows[2]]


def test_the_recipe_follows_the_number_of_rows_a_label() -> None:
    assert [choose(rows, 6) for rows in (20, 60, 299, 5000)] == [
        "linear",
        "contrastive",
        "contrastive",
        "full",
    ]


def test_texts_are_tokenised_in_slices() -> None:
    """All at once, 200,000 short texts took a gigabyte."""
    calls: list[int] = []

    def tokenizer(
        texts: list[str], *, truncation: bool, max_length: int | None
    ) -> dict[str, list[list[int]]]:
        calls.append(len(texts))
        return {"input_ids": [[ord(letter) for letter in text[:max_length]] for text in texts]}

    texts = [f"t{number}" for number in range(2 * SLICE + 1)]
    found = ["".join(map(chr, ids)) for ids in encode(tokenizer, texts)]
    assert (found, calls) == (texts, [SLICE, SLICE, 1])
    assert [len(ids) for ids in encode(tokenizer, texts, 3)] == [min(3, len(text)) for text in texts]
    assert list(encode(tokenizer, [])) == []


def test_rows_are_streamed(tmp_path: Path) -> None:
    """So memory is bounded by the sample."""
    import tracemalloc

    path = _write(tmp_path / "a.csv", "text,label\n" + "some text,a\n" * 50_000)
    tracemalloc.start()
    found = read_table(path, columns=Columns(), most=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.total == 50_000
    assert peak < 6_000_000  # 9.6 million if all are kept


def test_the_file_in_the_tests_data_is_what_its_generator_writes(tmp_path: Path) -> None:
    from tests.labelled.make_sets import HERE, SETS, rows, write

    write(tmp_path / "topics.csv", rows("topics", SETS["topics"][0], test=False))
    assert (tmp_path / "topics.csv").read_bytes() == (HERE / "topics.csv").read_bytes()
    found = read_table(HERE / "topics.csv", columns=Columns())
    assert (found.total, len({row.labels for row in found.rows})) == (3000, 6)
    assert json.dumps(found.rows[0].text)
