"""Files come back with the results of their job, and are read alike by upload, page, command and training."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from api.jobs import labelled
from batcher.jobs.records import Counts
from model_store.errors import BadTable
from model_store.training.table import Columns, read_table
from tests.unit.api.jobs.jobs_api import FAILURE, POSITIVE, JobsApi
from tests.unit.api.service import assert_problem
from tests.unit.text_files.corpus import CASES, Case
from tests.unit.text_files.typed_files import arrow, pa, parquet, sheet_of, table_of, xlsx
from text_files.errors import FileError
from text_files.formats import Hints
from text_files.output import Output
from text_files.source import TextFile


def result(number: int) -> list[dict[str, Any]]:
    return [{"label": f"L{number}", "score": 0.75}]


async def uploaded(api: JobsApi, name: str, content: bytes, **query: str) -> str:
    params = {"filename": name or "export", "keep_input": "true", **query}
    answer = await api.client.post("/jobs", params=params, content=content)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def hints_of(case: Case) -> Hints:
    given = {name: value if value != "false" else False for name, value in case.query.items()}
    return Hints(**given)


@pytest.mark.parametrize("case", [case for case in CASES if not case.refused], ids=str)
async def test_upload_page_command_and_training_agree(api: JobsApi, tmp_path: Path, case: Case) -> None:
    """The page, which read files itself, put labels beside the wrong texts."""
    path = tmp_path / (case.name or "export")
    path.write_bytes(case.content)
    command = TextFile(path, hints_of(case))
    assert list(command.texts()) == case.texts
    results = [result(number) for number in range(len(case.texts))]
    written = "".join(
        Output.of(command.preview().format).lines(command.names(), zip(command.rows(), results, strict=True))
    )
    assert written.startswith(case.starts)
    job_id = await uploaded(api, case.name, case.content, **case.query)
    texts = (await api.get(f"/{job_id}/texts")).text.removesuffix("\n").split("\n")
    assert [json.loads(text) for text in texts] == case.texts
    api.finish(api.start(job_id), *results)
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=case.content)
    assert answer.text == written
    answer = await api.client.post(
        f"/jobs/{job_id}/labelled", content=case.content, headers={"accept": "text/csv"}
    )
    table = answer.content.decode("utf-8-sig")
    assert all(f"L{number}" in table for number in range(len(results)))
    if case.labels is not None:
        rows = read_table(path, columns=Columns(hints=hints_of(case))).rows
        assert [(row.text, row.labels) for row in rows] == [
            (text, (label,)) for text, label in zip(case.texts, case.labels, strict=True)
        ]


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=str)
async def test_what_cannot_be_read_is_refused_in_the_same_words(
    api: JobsApi, tmp_path: Path, case: Case
) -> None:
    path = tmp_path / (case.name or "export")
    path.write_bytes(case.content)
    with pytest.raises(FileError) as said:
        list(TextFile(path, hints_of(case)).texts())
    assert case.refused in str(said.value)
    answer = await api.client.post(
        "/jobs", params={"filename": case.name or "export", **case.query}, content=case.content
    )
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["msg"].partition(": ")[2].strip() in str(said.value)
    assert case.refused in problem["msg"]
    if "column" not in case.refused:
        with pytest.raises(BadTable) as training:
            read_table(path, columns=Columns(label="id"))
        assert str(training.value).startswith(str(path))
    assert api.held() == []


async def test_a_charset_of_the_content_type_was_ignored(api: JobsApi) -> None:
    content = "text\r\ncafé\r\n".encode("cp1252")
    for path in ("/jobs?keep_input=true", "/jobs?keep_input=true&filename=a.csv"):
        headers = {"content-type": "text/csv; charset=windows-1252"}
        answer = await api.client.post(path, content=content, headers=headers)
        assert answer.status_code == 202, answer.text
        assert (await api.get(f"/{answer.json()['id']}/texts")).text == '"café"\n'
    answer = await api.client.post(
        "/jobs", content=content, headers={"content-type": "text/csv; charset=klingon"}
    )
    assert answer.json()["detail"][0]["msg"].startswith("unknown encoding 'klingon'")


async def test_only_rows_with_a_result_come_back(api: JobsApi) -> None:
    content = "text\n" + "".join(f"t{number}\n" for number in range(1500))
    job_id = await uploaded(api, "a.csv", content.encode())
    line = json.dumps(POSITIVE).encode()
    attempt = api.start(job_id)
    api.store.append(attempt, 0, [b"\n".join([line] * 256)], counts=Counts(), rate=1.0, model="")
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content.encode())
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert [row[0] for row in rows] == ["text", *(f"t{number}" for number in range(256))]
    assert answer.headers["content-type"].startswith("text/csv")


async def test_json_as_a_table_keeps_its_notation(api: JobsApi) -> None:
    """Results as CSV had Python's notation from the command, and rounded numbers from the page."""
    content = (
        b'{"text":"a","m":{"a":[1,true,null]},"ok":true,"n":null,"p":0.10,"id":1294030472427835393}\n"b"\n'
    )
    job_id = await uploaded(api, "a.ndjson", content)
    api.finish(api.start(job_id), POSITIVE, FAILURE)
    answer = await api.client.post(
        f"/jobs/{job_id}/labelled", content=content, headers={"accept": "text/csv"}
    )
    assert list(csv.reader(io.StringIO(answer.text, newline=""))) == [
        ["text", "m", "ok", "n", "p", "id", "label", "score", "error"],
        ["a", '{"a":[1,true,null]}', "true", "", "0.10", "1294030472427835393", "POSITIVE", "0.75", ""],
        ["b", "", "", "", "", "", "", "", "inference_failed"],
    ]


async def test_another_file_gets_no_labels(api: JobsApi) -> None:
    job_id = await uploaded(api, "a.csv", b"text\na\nb\n")
    api.finish(api.start(job_id), POSITIVE, POSITIVE)
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=b"text\nb\na\n")
    assert_problem(answer, 409, "other_file")
    assert answer.json()["detail"].endswith("(this one has 2)")
    # One text too many says so, whatever comes after it.
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=b'text\na\nb\nc\n"d')
    assert_problem(answer, 409, "other_file")
    assert answer.json()["detail"].endswith("(this one has more)")
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=b"id\nb\na\n")
    assert answer.status_code == 422
    answer = await api.client.post(f"/jobs/{await api.new('a')}/labelled", content=b"text\na\n")
    assert_problem(answer, 409, "no_file")


def test_a_copy_that_is_forgotten_gives_its_room_back() -> None:
    room = labelled._Room(20)
    copy = labelled._Copy(room)
    copy.reserve(20)
    assert not room.take(1)
    del copy
    assert room.take(20)


async def test_files_that_are_kept_have_a_limit_and_give_their_room_back(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.compress(b"text\na\n")
    job_id = await uploaded(api, "a.csv.gz", content)
    api.finish(api.start(job_id), POSITIVE)
    for _ in range(3):
        answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content)
        assert answer.status_code == 200
    room = labelled._Room(20)
    copy = labelled._Copy(room)
    with pytest.raises(labelled.Problem) as refused:
        list(copy.take([bytes(range(256))]))
    assert refused.value.code == "too_many_bodies"
    copy.close()
    assert room.take(20)
    monkeypatch.setattr(labelled, "MAX_KEPT", 20)
    for size, code in ((20, "too_many_bodies"), (21, "too_large")):
        with pytest.raises(labelled.Problem) as refused:
            labelled._Copy(room).reserve(size)
        assert refused.value.code == code


TABLE = pa.table({"id": pa.array([7, None], pa.int16()), "text": ["a", "b"]})


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.xlsx"])
async def test_a_table_with_types_comes_back_in_its_format(api: JobsApi, name: str) -> None:
    sheet = xlsx([["id", "text"], [7, "a"], [None, "b"]])
    content = {"a.parquet": parquet, "a.feather": arrow}.get(name, lambda _: sheet)(TABLE)
    job_id = await uploaded(api, name, content)
    assert (await api.get(f"/{job_id}/texts")).text == '"a"\n"b"\n'
    assert (await api.get(f"/{job_id}")).json()["file"]["format"] in ("parquet", "arrow", "xlsx")
    api.finish(api.start(job_id), POSITIVE, FAILURE)
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content)
    assert answer.status_code == 200, answer.text
    if name == "a.xlsx":
        assert sheet_of(answer.content)[1:] == [
            [7, "a", "POSITIVE", 0.75, None],
            [None, "b", None, None, "inference_failed"],
        ]
    else:
        found = table_of(answer.content)
        assert found.select(["id", "text"]).equals(TABLE)
        assert found["error"].to_pylist() == [None, "inference_failed"]
    headers = {"accept": "application/x-ndjson"}
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content, headers=headers)
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [7, None]
    other = await api.client.post(f"/jobs/{job_id}/labelled", content=parquet(TABLE.slice(1)))
    assert other.status_code in (409, 422)


async def test_a_damaged_table_with_types_is_refused_at_once(api: JobsApi) -> None:
    for content in (parquet(TABLE)[:-5], b"PK\x03\x04xl/" + bytes(99), b"ARROW1" + bytes(99)):
        answer = await api.client.post("/jobs?filename=a.bin", content=content)
        assert answer.status_code == 422
        assert "damaged" in answer.json()["detail"][0]["msg"]
    assert api.held() == []


async def test_a_file_that_is_too_large_to_be_joined_names_the_command(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It got 503 and the advice to try again, however often."""
    job_id = await uploaded(api, "a.csv", b"text\na\n")
    api.finish(api.start(job_id), POSITIVE)
    monkeypatch.setattr(labelled, "MAX_KEPT", 20)
    monkeypatch.setattr(labelled._Room, "take", lambda room, size: size < 20)
    content = b"text\na\n" + bytes(range(32, 127)) * 3
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content)
    assert_problem(answer, 413, "too_large")
    assert "millrace classify" in answer.json()["detail"]


@pytest.mark.parametrize(("fields", "status"), [(3, 200), (4, 422)])
async def test_objects_have_a_limit_of_different_fields(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch, fields: int, status: int
) -> None:
    monkeypatch.setattr(labelled, "MAX_FIELDS", 3)
    lines = [json.dumps({"text": "a", f"field {number}": 1}) for number in range(1, fields)]
    content = "\n".join(lines).encode()
    job_id = await uploaded(api, "a.ndjson", content)
    api.finish(api.start(job_id), *[POSITIVE] * len(lines))
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content)
    assert answer.status_code == status, answer.text
    assert ("more than 3 different fields" in answer.text) == (status == 422)


async def test_any_number_of_processes_wrote_tables_at_a_time(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take 512 MiB, for as long as its client reads."""
    assert labelled.MAX_KEPT // labelled.TYPED == 4
    content = parquet(TABLE)
    job_id = await uploaded(api, "a.parquet", content)
    api.finish(api.start(job_id), POSITIVE, FAILURE)
    taken: list[int] = []

    def take(_: object, size: int) -> bool:
        taken.append(size)
        return size <= len(content)

    monkeypatch.setattr(labelled._Room, "take", take)
    answer = await api.client.post(f"/jobs/{job_id}/labelled", content=content)
    assert_problem(answer, 503, "too_many_bodies")
    assert sum(size for size in taken if size > 0) == labelled.TYPED
    assert sum(size for size in taken if size <= len(content)) == 0, "the room is not given back"
