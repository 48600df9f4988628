"""Tables that hypothesis draws: what is written is read, in every way, and comes back beside its result."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api.jobs.body import FileTexts
from api.jobs.labelled import hints_of
from api.jobs.schemas import JobFile
from model_store.training.table import MAX_TEXT, Columns, read_table
from text_files.formats import Hints
from text_files.output import Output
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
    upload = FileTexts(FileRows([drawn.content], drawn.name, Hints()))
    assert list(upload) == texts, "upload"
    stored = JobFile.model_validate_json(upload.described())
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
    table = "".join(Output.of(command.format).lines(command.names(), joined)).removeprefix("\ufeff")
    found = list(csv.reader(io.StringIO(table, newline=""), delimiter=command.format.delimiter))
    assert [row[:-3] for row in found] == drawn.rows
    assert [row[-3] for row in found[1:]] == [result[0]["label"] for result in results]
    lines = "".join(Output.of(command.format, "ndjson").lines(command.names(), joined)).removesuffix("\n")
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
        out = "".join(Output.of(file.format).lines(file.names(), joined)).removesuffix("\n").split("\n")
        for line, one in zip(out, written, strict=True):
            assert line.startswith(f"{one[:-1]}, ")
        table = "".join(Output.of(file.format, "csv").lines(file.names(), joined))
        more = file.names().index("more")
        cells = [row[more] for row in csv.reader(io.StringIO(table, newline=""))][1:]
        for found, one in zip(cells, objects, strict=True):
            assert found == _cell(one["more"])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
