from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from api.jobs.pages import Chunk, PageType, page, page_type
from api.jobs.schemas import job_body
from tests.fakes import job_record

RECORD = job_record(
    done=4,
    created_ms=1_700_000_000_000,
    started_ms=1_700_000_001_500,
    chunk_texts=2,
    rate=2.0,
    model="stub@abc",
    digest="d",
    labels={str(number): number for number in range(1, 25)},
)
LABELS = b'[{"label":"NEGATIVE","score":0.25},{"label":"POSITIVE","score":0.75}]'
ERROR = b'{"error":{"code":"text_too_long","detail":"too long, \\"really\\""}}'
CHUNKS = [[LABELS, ERROR], [LABELS, LABELS]]


def text_of(kind: PageType, offset: int, end: int, chunks: list[list[bytes]]) -> str:
    return b"".join(page(kind, RECORD, offset, end, map(Chunk, chunks))).decode()


def test_a_running_job_tells_how_long_it_will_take() -> None:
    body = job_body(RECORD, position=3)
    assert (body.rate, body.remaining_s, body.position) == (2.0, 3.0, None)
    assert body.started_at is not None
    assert body.started_at.isoformat() == "2023-11-14T22:13:21.500000+00:00"


def test_a_job_has_its_most_frequent_labels() -> None:
    shown = job_body(RECORD).labels
    assert [(one.label, one.texts) for one in shown] == [(str(number), number) for number in range(24, 4, -1)]


def test_a_queued_job_tells_its_position_and_no_rate() -> None:
    body = job_body(replace(RECORD, status="queued", rate=0.0, done=0), position=3)
    assert (body.rate, body.remaining_s, body.position) == (None, None, 3)


def test_a_failed_job_tells_why() -> None:
    body = job_body(replace(RECORD, status="failed", error_code="job_timeout", error="too long"))
    assert body.error is not None
    assert (body.error.code, body.error.detail) == ("job_timeout", "too long")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("Text/CSV; charset=utf-8", "text/csv"),
        ("text/html, application/x-ndjson;q=0.5, */*;q=0.1", "application/x-ndjson"),
        ("text/csv;q=0.5, application/json;q=0.8", "application/json"),
        ("text/csv;q=nonsense", "application/json"),
        ("text/csv;q=1, application/json;q=0.5", "text/csv"),
        ("image/png", "application/json"),
    ],
)
def test_the_preferred_of_the_known_types(accept: str, kind: str) -> None:
    assert page_type(accept) == kind


def test_a_json_page_says_where_the_next_begins() -> None:
    shown = json.loads(text_of("application/json", 2, 6, CHUNKS))
    assert (shown["offset"], shown["next_offset"], shown["total"], shown["done"]) == (2, 6, 10, 4)
    assert shown["predictions"] == [json.loads(line) for chunk in CHUNKS for line in chunk]


def test_the_last_page_leads_nowhere() -> None:
    assert json.loads(text_of("application/json", 6, 10, CHUNKS))["next_offset"] is None


def test_an_empty_page_is_a_page() -> None:
    assert json.loads(text_of("application/json", 4, 4, []))["predictions"] == []
    assert text_of("application/x-ndjson", 4, 4, []) == ""
    assert text_of("text/csv", 4, 4, []) == "index,label,score,error\r\n"


def test_lines_are_results() -> None:
    lines = text_of("application/x-ndjson", 2, 6, CHUNKS).splitlines()
    assert [line.encode() for line in lines] == [LABELS, ERROR, LABELS, LABELS]


def test_rows_hold_the_best_label() -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("text/csv", 2, 6, CHUNKS), newline="")))
    assert rows[0] == {"index": "2", "label": "POSITIVE", "score": "0.75", "error": ""}
    assert rows[1] == {"index": "3", "label": "", "score": "", "error": "text_too_long"}
    assert [row["index"] for row in rows] == ["2", "3", "4", "5"]


def test_a_result_says_which_model_answered_if_that_is_asked() -> None:
    chunks = [Chunk([LABELS, ERROR], ["a", None], ["m@1", ""]), Chunk([LABELS], ["b"], ["m@2"])]

    def sent(kind: PageType, chunks: list[Chunk], *more: str) -> str:
        return b"".join(page(kind, RECORD, 0, 3, chunks, more)).decode()

    lines = [json.loads(line) for line in sent("application/x-ndjson", chunks, "text", "model").splitlines()]
    assert [line["model"] for line in lines] == ["m@1", None, "m@2"]
    assert [line["text"] for line in lines] == ["a", None, "b"]
    assert (lines[0]["prediction"], lines[1]["error"]) == (json.loads(LABELS), json.loads(ERROR)["error"])
    rows = list(csv.reader(io.StringIO(sent("text/csv", chunks, "text", "model"))))
    assert rows[0] == ["index", "text", "label", "score", "error", "model"]
    assert [row[-1] for row in rows[1:]] == ["m@1", "", "m@2"]
    alone = [chunk._replace(texts=None) for chunk in chunks]
    assert sent("text/csv", alone, "model").startswith(
        "index,label,score,error,model\r\n0,POSITIVE,0.75,,m@1"
    )
    assert json.loads(sent("application/json", alone, "model"))["predictions"][2] == {
        "model": "m@2",
        "prediction": json.loads(LABELS),
    }
