"""Files as bodies of jobs: POST /jobs?filename=."""

from __future__ import annotations

import gzip

from tests.unit.api.jobs.jobs_api import JobsApi


async def test_an_uploaded_file_becomes_a_job_that_says_how_it_was_read(api: JobsApi) -> None:
    table = gzip.compress("id;review\n1;gut\n2;schön\n".encode())
    query = {"filename": "reviews.csv.gz", "column": "review", "keep_input": "true"}
    answer = await api.client.post("/jobs", params=query, content=table)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["total"] == 2
    assert job["file"] == {
        "name": "reviews.csv.gz",
        "format": "csv",
        "delimiter": ";",
        "encoding": "utf-8",
        "gzipped": True,
        "compression": "gzip",
        "column": "review",
        "header": True,
        "literal": False,
        "description": "CSV, separated by semicolons, UTF-8, gzip",
        "note": "",
    }
    assert (await api.get(f"/{job['id']}")).json()["file"] == job["file"]
    texts = (await api.get(f"/{job['id']}/texts")).text
    assert texts == '"gut"\n"schön"\n'


async def test_a_wrong_column_names_those_there_are(api: JobsApi) -> None:
    answer = await api.client.post("/jobs?filename=a.csv", content=b"id,Text\n1,a\n")
    assert answer.status_code == 422
    assert answer.json()["columns"] == ["id", "Text"]
    (problem,) = answer.json()["detail"]
    assert problem["msg"] == "line 1: no column 'text'; the columns are 'id', 'Text': did you mean 'Text'?"


async def test_an_image_does_not_become_a_job(api: JobsApi) -> None:
    """The page made a job of 147 texts from a PNG."""
    answer = await api.client.post("/jobs?filename=cat.png", content=b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"] == "not a text file but a PNG image"
    assert api.held() == []


async def test_a_small_gzip_file_may_not_hold_more_than_a_large_body(start: object) -> None:
    api = await start(max_job_body_bytes=100_000)  # type: ignore[operator]
    answer = await api.client.post("/jobs?filename=a.txt.gz", content=gzip.compress(b"word\n" * 100_000))
    assert answer.status_code == 413
    assert api.held() == []
