"""Bodies of jobs: however they are split into blocks, the result is the same texts or the same error."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.asgi.json_reader import MAX_FIELD, read_json
from api.errors import Problem
from api.jobs.body import KINDS, read_texts

Reader = Callable[[Iterable[bytes]], Iterator[str]]
read_ndjson = partial(read_texts, "application/x-ndjson")
read_csv = partial(read_texts, "text/csv")

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=8)


def blocks_of(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def as_json(texts: list[str]) -> bytes:
    return json.dumps({"text": texts}, ensure_ascii=False).encode()


def as_ndjson(texts: list[str]) -> bytes:
    return "".join(json.dumps(text) + "\n" for text in texts).encode()


def as_csv(texts: list[str]) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerows([["id", "text", "more"], *([at, text, "x"] for at, text in enumerate(texts))])
    return out.getvalue().encode()


@given(TEXTS, st.integers(1, 40))
def test_texts_come_out_as_they_went_in(texts: list[str], size: int) -> None:
    assert list(read_json(blocks_of(as_json(texts), size))) == texts
    assert list(read_json(blocks_of(json.dumps({"text": texts}).encode(), size))) == texts
    assert list(read_ndjson(blocks_of(as_ndjson(texts), size))) == texts


@given(TEXTS, st.integers(1, 40))
def test_columns_come_out_as_they_went_in(texts: list[str], size: int) -> None:
    # The csv module rejects NUL, and treats a lone carriage return as the end of a line.
    texts = [text.replace("\0", "").replace("\r", " ") for text in texts]
    assert list(read_csv(blocks_of(as_csv(texts), size))) == texts


def test_quotes_commas_and_line_ends_belong_to_the_text() -> None:
    body = b'text,id\r\n"one\ntwo, ""three""",1\r\nfour,2\r\n'
    assert list(read_csv([body])) == ['one\ntwo, "three"', "four"]


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert list(read_csv(["\ufefftext\nä\n".encode()])) == ["ä"]


def test_lines_may_be_objects_with_more_in_them() -> None:
    body = b'{"id": 5, "text": "a"}\n\n"b"\r\n'
    assert list(read_ndjson([body])) == ["a", "b"]


def test_empty_texts_are_texts() -> None:
    assert list(read_ndjson([b'""\n'])) == [""]
    assert list(read_json([b'{"text": [""]}'])) == [""]
    assert list(read_csv([b"id,text\n1,\n"])) == [""]


def test_every_row_of_a_table_is_a_text() -> None:
    """Otherwise result n would not belong to row n."""
    assert list(read_csv([b"text\r\na\r\n\r\n\r\nb\r\n"])) == ["a", "", "", "b"]
    assert list(read_csv([b"text\n\na\n\n\n"])) == ["", "a"], "empty lines at the end are not rows"
    assert list(read_csv([b"id,text\n1,a\n\n"])) == ["a"]
    assert list(read_csv([b"id,text\n\n1,a\n\n\n2,b\n"])) == ["a", "b"], "with columns, it has none of them"
    assert list(read_csv([b'text\na\n""\n'])) == ["a", ""]


@pytest.mark.parametrize(
    ("read", "body", "kind", "place"),
    [
        (read_ndjson, b'"a"\n"b\n', "json_invalid", {"line": 2}),
        (read_ndjson, b'"a"\n\n5\n', "string_type", {"line": 3}),
        (read_ndjson, b'{"txt": "a"}\n', "string_type", {"line": 1}),
        (read_ndjson, b'{"text": null}\n', "string_type", {"line": 1}),
        (read_ndjson, b'"\\ud800"\n', "string_unicode", {"line": 1}),
        (read_ndjson, b'"a"\n"\xff"\n', "string_unicode", {"line": 2}),
        (read_ndjson, b'"a"\n{"text": "a", "text": "b"}\n', "duplicate_key", {"line": 2}),
        (read_ndjson, b'{"text": "a", "id": {"a": 1, "\\u0061": 2}}\n', "duplicate_key", {"line": 1}),
        (read_ndjson, b"[" * 100_000, "json_invalid", {"line": 1}),
        (read_csv, b"id,words\n1,a\n", "missing", {"line": 1}),
        (read_csv, b"text,text\n1,a\n", "duplicate_key", {"line": 1}),
        (read_csv, b"id,text\n1,a\n2\n", "missing", {"line": 3}),
        (read_csv, b"id,text\n1,one, two\n", "extra_forbidden", {"line": 2}),
        (read_csv, b'id,text\n1,"a\nb"\n2,"c\nd",x\n', "extra_forbidden", {"line": 4}),
        (read_csv, b"text\none, two\n", "extra_forbidden", {"line": 2}),
        (read_csv, b"id,text\n1,a\n\n\n2\n", "missing", {"line": 5}),
        (read_csv, b"text\na\n\xff\n", "string_unicode", {"line": 3}),
        (read_csv, b'text\na\n"b\n', "csv_invalid", {"line": 3}),
        (read_csv, b'text\n"a"b\n', "csv_invalid", {"line": 2}),
        (read_csv, b"", "missing", {}),
        (read_json, b'{"text": ["a", 5]}', "string_type", {"index": 1}),
        (read_json, b'{"text": ["a" "b"]}', "json_invalid", {"index": 1}),
        (read_json, b'{"text": ["a", "b', "json_invalid", {"index": 1}),
        (read_json, b'{"text": ["a", "\\ud800"]}', "string_unicode", {"index": 1}),
        (read_json, b'{"text": ["\\x"]}', "json_invalid", {"index": 0}),
        (read_json, b'{"text": ["a", "\xff"]}', "string_unicode", {"index": 1}),
        (read_json, b'{"text": ["a",]}', "json_invalid", {"index": 1}),
        (read_json, b'{"text": []}', "too_short", {}),
        (read_json, b'{"text": ["a"], "b": 1}', "extra_forbidden", {}),
        (read_json, b'{"text": ["a"], "text": ["b"]}', "duplicate_key", {}),
        (read_json, b"{}", "missing", {}),
        (read_json, b'{"words": ["a"]}', "extra_forbidden", {}),
        (read_json, b'{"text": "a"}', "list_type", {}),
        (read_json, b'["a"]', "model_type", {}),
        (read_json, b'{"text": ["a"]} x', "json_invalid", {}),
        (read_json, b"\xff", "string_unicode", {}),
        (read_json, b"", "missing", {}),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(
    read: Reader, body: bytes, kind: str, place: dict[str, int]
) -> None:
    with pytest.raises(Problem) as caught:
        list(read([body]))
    problem = caught.value
    assert problem.status == 422
    assert {name: value for name, value in problem.fields.items() if name != "columns"} == place
    assert isinstance(problem.detail, list)
    assert problem.detail[0]["type"] == kind


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    "body", [b'{"text": [5, "\xff"]}', b'{"text": "\xc3"}', b"\xff", b" nul", b'{"text": nonsense']
)
def test_what_is_said_does_not_depend_on_how_a_body_arrives(body: bytes, size: int) -> None:
    with pytest.raises(Problem) as whole:
        list(read_json([body]))
    with pytest.raises(Problem) as parts:
        list(read_json(blocks_of(body, size)))
    assert parts.value.detail == whole.value.detail


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_endless_text_is_refused_before_it_has_been_read(kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield {"application/json": b'{"text": ["', "text/csv": b'text\n"'}.get(kind, b'"')
        while True:
            sent += 2**16
            yield b"x" * 2**16

    with pytest.raises(Problem) as caught:
        list(read_texts(kind, endless()))
    assert caught.value.status == 422
    assert sent < 2 * MAX_FIELD


def test_a_string_without_end_costs_no_more_than_its_length() -> None:
    body = b'{"text": ["' + b"\\\\" * 200_000
    began = time.process_time()
    with pytest.raises(Problem):
        list(read_json([body]))
    assert time.process_time() - began < 2.0
