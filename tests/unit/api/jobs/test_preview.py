"""POST /jobs/preview: how a file would be read, and its first rows."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from tests.unit.api.jobs.jobs_api import JobsApi
from tests.unit.text_files.typed_files import pa, parquet, xlsx


async def previewed(api: JobsApi, content: bytes, **query: str) -> dict[str, Any]:
    answer = await api.client.post("/jobs/preview", params=query, content=content)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_table_shows_its_first_rows_and_what_was_detected(api: JobsApi) -> None:
    rows = "".join(f"{number};one, two\n" for number in range(9))
    found = await previewed(api, f"id;text\n{rows}".encode(), filename="a.csv")
    assert found["columns"] == ["id", "text"]
    assert found["column"] == 1
    assert found["rows"] == [["0", "one, two"], ["1", "one, two"], ["2", "one, two"]]
    file = found["file"]
    assert (file["format"], file["delimiter"], file["encoding"], file["header"]) == (
        "csv",
        ";",
        "utf-8",
        True,
    )
    assert file["description"] == "CSV, separated by semicolons, UTF-8"
    found = await previewed(api, b"1;a\n2;b\n", filename="a.csv", header="false", column="2")
    assert (found["columns"], found["column"], found["rows"]) == (["1", "2"], 1, [["1", "a"], ["2", "b"]])
    assert api.held() == []


@pytest.mark.parametrize(
    ("content", "columns", "column", "rows"),
    [
        (
            b'{"id": 1, "text": "a"}\n{"text": "b", "n": null}\n',
            ["id", "text", "n"],
            1,
            [["1", "a", ""], ["", "b", ""]],
        ),
        (b'["a", {"text": "b"}]', ["text"], 0, [["a"], ["b"]]),
        (b"a, b\n\nc\n", ["text"], 0, [["a, b"], ["c"]]),
        (gzip.compress(b"text\na\n" * 2), ["text"], 0, [["a"], ["text"], ["a"]]),
        (parquet(pa.table({"id": [1, 2], "text": ["a", None]})), ["id", "text"], 1, [["1", "a"], ["2", ""]]),
        (xlsx([["text", "at"], ["a", 0.5]]), ["text", "at"], 0, [["a", "0.5"]]),
    ],
    ids=["ndjson", "json", "txt", "gzip", "parquet", "xlsx"],
)
async def test_every_format_has_a_preview(
    api: JobsApi, content: bytes, columns: list[str], column: int, rows: list[list[str]]
) -> None:
    found = await previewed(api, content)
    assert (found["columns"], found["column"], found["rows"]) == (columns, column, rows)


async def test_the_beginning_of_a_file_is_enough(api: JobsApi) -> None:
    table = b"id,text\n" + b"1,some text\n" * 100_000
    for content in (table, gzip.compress(table)):
        found = await previewed(api, content[: len(content) // 2], filename="a.csv")
        assert len(found["rows"]) == 3


async def test_what_cannot_be_read_is_refused_as_for_a_job(api: JobsApi) -> None:
    answer = await api.client.post("/jobs/preview?filename=a.csv", content=b"id,words\n1,a\n")
    assert answer.status_code == 422
    assert answer.json()["columns"] == ["id", "words"]
    assert answer.json()["detail"][0]["msg"].startswith("line 1: no column 'text'")


async def test_a_long_cell_is_cut(api: JobsApi) -> None:
    found = await previewed(api, f"text\n{'a' * 5000}\n".encode(), filename="a.csv")
    assert found["rows"] == [["a" * 200]]


async def test_half_a_surrogate_pair_is_shown_escaped(api: JobsApi) -> None:
    content = b'{"text": "a", "by\\udc00": "\\ud83d"}'
    found = await previewed(api, content, filename="a.ndjson")
    assert (found["columns"], found["rows"]) == (["text", "by\\udc00"], [["a", "\\ud83d"]])
