"""Pages of results, cancelling, deleting and the list."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from batcher.errors import DataMissing
from batcher.jobs.records import Counts, JobRecord
from batcher.jobs.store import JobStore
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import FAILURE, POSITIVE, JobsApi, Start
from tests.unit.api.service import assert_problem


async def test_pages_lead_through_all_results(api: JobsApi) -> None:
    job_id = await api.new("a", "b", "c")
    api.finish(api.start(job_id), POSITIVE, FAILURE, POSITIVE)
    first = await api.get(f"/{job_id}/predictions", limit=2)
    assert first.json() == {
        "offset": 0,
        "total": 3,
        "done": 3,
        "next_offset": 2,
        "predictions": [POSITIVE, FAILURE],
    }
    assert (first.headers["x-total"], first.headers["x-done"]) == ("3", "3")
    assert first.headers["link"] == f'</jobs/{job_id}/predictions?offset=2&limit=2>; rel="next"'
    for offset, result in enumerate((POSITIVE, FAILURE, POSITIVE)):
        single = (await api.get(f"/{job_id}/predictions", offset=offset, limit=1)).json()
        assert single["predictions"] == [result]
    for query in ({"offset": -1}, {"limit": 0}):
        assert_problem(await api.get(f"/{job_id}/predictions", **query), 422, "invalid_request")
    last = await api.get(f"/{job_id}/predictions", offset=2)
    assert (last.json()["predictions"], last.json()["next_offset"]) == ([POSITIVE], None)
    assert "link" not in last.headers
    beyond = await api.get(f"/{job_id}/predictions", offset=7)
    assert (beyond.json()["predictions"], beyond.json()["next_offset"]) == ([], None)


async def test_what_is_done_can_be_read_while_the_rest_runs(api: JobsApi) -> None:
    job_id = await api.new(*(str(number) for number in range(300)))
    nothing = (await api.get(f"/{job_id}/predictions")).json()
    assert (nothing["predictions"], nothing["next_offset"]) == ([], 0)
    attempt = api.start(job_id)
    line = json.dumps(POSITIVE).encode()
    api.store.append(attempt, 0, [b"\n".join([line] * 256)], counts=Counts(), rate=1.0, model="")
    page = (await api.get(f"/{job_id}/predictions")).json()
    assert (len(page["predictions"]), page["next_offset"], page["done"]) == (256, 256, 256)


@pytest.mark.parametrize("status", ["cancelled", "failed"])
async def test_pages_of_a_job_that_ended_early_end_too(api: JobsApi, status: str) -> None:
    job_id = await api.new(*(str(number) for number in range(300)))
    attempt = api.start(job_id)
    line = json.dumps(POSITIVE).encode()
    api.store.append(attempt, 0, [b"\n".join([line] * 256)], counts=Counts(), rate=1.0, model="")
    api.store.end(attempt, "failed", "job_timeout") if status == "failed" else api.store.cancel(job_id)
    first = await api.get(f"/{job_id}/predictions", limit=200)
    assert first.json()["next_offset"] == 200
    last = await api.get(f"/{job_id}/predictions", offset=200)
    assert (len(last.json()["predictions"]), last.json()["next_offset"]) == (56, None)
    assert "link" not in last.headers
    beyond = await api.get(f"/{job_id}/predictions", offset=256)
    assert (beyond.json()["predictions"], beyond.json()["next_offset"]) == ([], None)


@pytest.mark.parametrize("job_id", ["abc", "A" * 32, "g" * 32, "a" * 33])
async def test_what_is_no_id_is_an_unknown_one(api: JobsApi, job_id: str) -> None:
    for path in (f"/{job_id}", f"/{job_id}/events", f"/{job_id}/predictions"):
        assert_problem(await api.get(path), 404, "not_found")
    assert_problem(await api.client.delete(f"/jobs/{job_id}"), 404, "not_found")


async def test_pages_as_lines_and_as_a_table(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    api.finish(api.start(job_id), POSITIVE, FAILURE)
    path = f"/jobs/{job_id}/predictions"
    lines = await api.client.get(path, headers={"accept": "application/x-ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == [POSITIVE, FAILURE]
    table = await api.client.get(path, headers={"accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(table.text, newline="")))
    assert rows == [
        ["index", "label", "score", "error"],
        ["0", "POSITIVE", "0.75", ""],
        ["1", "", "", "inference_failed"],
    ]


async def test_a_queued_job_is_cancelled_and_leaves_the_queue(api: JobsApi) -> None:
    job_id = await api.new()
    answer = await api.client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert api.queue.rq.get_job_ids() == []
    assert api.start(job_id).status == "cancelled"


async def test_a_running_job_is_cancelled_at_once(api: JobsApi) -> None:
    job_id = await api.new()
    attempt = api.start(job_id)
    answer = await api.client.delete(f"/jobs/{job_id}")
    assert answer.json()["status"] == "cancelled"
    assert api.store.append(attempt, 0, [b"[]"], counts=Counts(), rate=1.0, model="") == "cancelled"


async def test_a_cancellation_that_was_done_is_not_refused(
    api: JobsApi, fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client repeated it as advised, and so deleted the job."""
    job_id, cancel = await api.new(), api.store.cancel

    def then_away(cancelled: str) -> str:
        after = cancel(cancelled)
        fake_redis.server.connected = False
        return after

    monkeypatch.setattr(api.store, "cancel", then_away)
    answer = await api.client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    fake_redis.server.connected = True
    assert (await api.get(f"/{job_id}")).json()["status"] == "cancelled"


async def test_a_job_that_is_deleted_meanwhile_is_not_cancelled(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, cancel = await api.new(), api.store.cancel

    def too_late(cancelled: str) -> str:
        cancel(cancelled)
        api.store.delete(cancelled)
        return cancel(cancelled)

    monkeypatch.setattr(api.store, "cancel", too_late)
    assert_problem(await api.client.delete(f"/jobs/{job_id}"), 404, "not_found")


async def test_an_ended_job_is_deleted_with_its_data(api: JobsApi) -> None:
    job_id = await api.new()
    api.finish(api.start(job_id), POSITIVE, POSITIVE, POSITIVE)
    assert (await api.client.delete(f"/jobs/{job_id}")).status_code == 204
    assert_problem(await api.get(f"/{job_id}"), 404, "not_found")
    assert_problem(await api.client.delete(f"/jobs/{job_id}"), 404, "not_found")
    assert not [key for key in api.held() if b"millrace" in key and b":job" in key]


async def test_jobs_are_listed_newest_first_page_by_page(api: JobsApi) -> None:
    ids = [await api.new(str(number)) for number in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = (await api.get("", limit=2, cursor=cursor)).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]


async def test_jobs_are_listed_by_status(api: JobsApi) -> None:
    ids = [await api.new(str(number)) for number in range(6)]
    for job_id in ids[::2]:
        api.store.cancel(job_id)
    found = (await api.get("", status="cancelled", limit=2)).json()
    assert [job["id"] for job in found["jobs"]] == [ids[4], ids[2]]
    rest = (await api.get("", status="cancelled", limit=2, cursor=found["next_cursor"])).json()
    assert ([job["id"] for job in rest["jobs"]], rest["next_cursor"]) == ([ids[0]], None)
    assert (await api.get("", status="finished")).json()["jobs"] == []


async def test_a_job_whose_time_is_over_is_not_listed(api: JobsApi) -> None:
    gone, kept = await api.new("a"), await api.new("b")
    api.redis.delete(f"{{millrace-jobs:default}}:job:{gone}")
    assert [job["id"] for job in (await api.get("")).json()["jobs"]] == [kept]
    assert api.store.newest(10) == ([kept], None)


@pytest.mark.parametrize("params", [{"status": "lost"}, {"limit": 0}, {"limit": 1001}, {"cursor": "x"}])
async def test_a_list_is_asked_for_with_sense(api: JobsApi, params: dict[str, Any]) -> None:
    assert_problem(await api.get("", **params), 422, "invalid_request")


async def test_kept_texts_come_with_their_results(api: JobsApi) -> None:
    body = {"text": ["a, b", "c"]}
    job = (await api.client.post("/jobs?keep_input=true", json=body)).json()["id"]
    api.finish(api.start(job), POSITIVE, FAILURE)

    async def results(kind: str, **params: object) -> str:
        path = f"/jobs/{job}/predictions"
        query = {"texts": "true", **params}
        return (await api.client.get(path, params=query, headers={"accept": kind})).text

    first, second = map(json.loads, (await results("application/x-ndjson")).splitlines())
    assert first == {"text": "a, b", "prediction": POSITIVE}
    assert second == {"text": "c", **FAILURE}
    assert json.loads(await results("application/json"))["predictions"] == [first, second]
    assert (await results("text/csv")).splitlines() == [
        "index,text,label,score,error",
        '0,"a, b",POSITIVE,0.75,',
        "1,c,,,inference_failed",
    ]
    assert (await results("text/csv", offset=1)).splitlines()[1:] == ["1,c,,,inference_failed"]


@pytest.mark.parametrize("odd", ["=1+1", "@SUM(A1)", "-2", "+3", "\tx", 'a"b', "a,b", "a\nb", "ß", "US "])
async def test_labels_and_texts_in_csv_are_those_of_the_other_formats(api: JobsApi, odd: str) -> None:
    """They are data for programs: docs/security.md says what to do before a spreadsheet opens them."""
    submitted = await api.client.post("/jobs?keep_input=true", json={"text": [odd]})
    job_id = str(submitted.json()["id"])
    api.finish(
        api.start(job_id), [{"label": odd, "score": 0.75}, {"label": odd.upper() + "?", "score": 0.25}]
    )
    path, types = f"/jobs/{job_id}/predictions?texts=true", ("text/csv", "application/json")
    table, page = [await api.client.get(path, headers={"accept": kind}) for kind in types]
    (row,) = csv.DictReader(io.StringIO(table.text, newline=""))
    (item,) = page.json()["predictions"]
    assert (row["text"], row["label"]) == (item["text"], item["prediction"][0]["label"]) == (odd, odd)


async def test_texts_that_are_not_kept_do_not_come_with_their_results(api: JobsApi) -> None:
    job = await api.new("a")
    api.finish(api.start(job), POSITIVE)
    answer = await api.get(f"/{job}/predictions", texts=True)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_texts")


async def test_labels_come_by_falling_score_if_the_request_asks(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    api.finish(api.start(job_id), POSITIVE, FAILURE)
    ordered = [*reversed(POSITIVE)]
    page = await api.get(f"/{job_id}/predictions", order="score")
    assert page.json()["predictions"] == [ordered, FAILURE]
    path = f"/jobs/{job_id}/predictions?order=score"
    lines = await api.client.get(path, headers={"accept": "application/x-ndjson"})
    assert list(map(json.loads, lines.text.splitlines())) == [ordered, FAILURE]
    table = await api.client.get(path, headers={"accept": "text/csv"})
    assert table.text.splitlines()[1] == "0,POSITIVE,0.75,"
    first = await api.get(f"/{job_id}/predictions", order="score", limit=1)
    assert first.headers["link"] == f'</jobs/{job_id}/predictions?offset=1&limit=1&order=score>; rel="next"'
    assert (await api.get(f"/{job_id}/predictions", order="best")).status_code == 422


async def test_a_setting_orders_the_labels_of_clients_that_do_not_ask(start: Start) -> None:
    api = await start(label_order="score")
    job_id = await api.new("a")
    api.finish(api.start(job_id), POSITIVE)
    assert (await api.get(f"/{job_id}/predictions")).json()["predictions"] == [[*reversed(POSITIVE)]]
    assert (await api.get(f"/{job_id}/predictions", order="id")).json()["predictions"] == [POSITIVE]


async def sent_for(api: JobsApi, path: str, query: bytes = b"") -> list[dict[str, Any]]:
    """The messages of the answer to a GET, whose body may break off."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "GET", "path": f"/jobs/{path}", "raw_path": b"", "query_string": query,
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await api.app(scope, receive, send)
    return sent


@pytest.mark.parametrize("how", ["ends", "is deleted"])
async def test_texts_that_go_while_they_are_read_are_no_complete_answer(
    api: JobsApi, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that read slowly took a part of the texts for all of them."""
    job_id = await api.new(*(f"text {number}" for number in range(600)))
    read = JobStore.texts

    def goes(store: JobStore, record: JobRecord, start: int, count: int) -> list[str | None]:
        api.store.cancel(record.id)
        if how == "is deleted":
            api.store.delete(record.id)
        return read(store, record, start, count)

    monkeypatch.setattr(JobStore, "texts", goes)
    sent = await sent_for(api, f"{job_id}/texts")
    assert sent[0]["status"] == 200
    assert b"".join(one["body"] for one in sent[1:]).count(b"\n") == 256
    assert all(one["more_body"] for one in sent[1:]), "the body looks complete"


@pytest.mark.parametrize("column", ["texts", "models"])
async def test_columns_that_go_while_they_are_read_are_no_complete_answer(
    api: JobsApi, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was deleted between its last results and what belongs to them: `"model": null`."""
    submitted = await api.client.post("/jobs?keep_input=true", json={"text": ["a", "b"]})
    job_id = str(submitted.json()["id"])
    api.finish(api.start(job_id), POSITIVE, POSITIVE)
    read = getattr(JobStore, column)

    def goes(store: JobStore, *args: Any) -> Any:
        api.store.delete(job_id)
        return read(store, *args)

    monkeypatch.setattr(JobStore, column, goes)
    sent = await sent_for(api, f"{job_id}/predictions", b"%s=true" % column.encode())
    assert sent[0]["status"] == 404


@pytest.mark.parametrize("left", [b"", b"[]"])
async def test_results_that_are_no_longer_all_there_logged_a_traceback(
    api: JobsApi, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Or were read again and again, if a part of a chunk was left."""
    job_id = await api.new(*(f"text {number}" for number in range(300)))
    attempt = api.start(job_id)
    for chunk, size in enumerate((256, 44)):
        lines = b"\n".join([json.dumps(POSITIVE).encode()] * size)
        api.store.append(attempt, chunk, [lines], counts=Counts(0), rate=2.0, model="m@r")
    api.store.end(attempt, "finished")
    (key,) = api.redis.scan_iter(f"*{job_id}:output")
    assert api.redis.llen(key) == 2
    api.redis.lset(key, 1, left) if left else api.redis.rpop(key)
    with caplog.at_level("WARNING"):
        sent = await sent_for(api, f"{job_id}/predictions")
        assert_problem(await api.get(f"/{job_id}/predictions", offset=256), 404, "not_found")
    assert (sent[0]["status"], sent[-1]["more_body"]) == (200, True)
    (record,) = caplog.records
    assert (vars(record)["action"], record.exc_info) == ("response.cut", None)


SEPARATORS = ["a\u2028b", "c\u2029d", "e\x85f", "g\u00e9h"]


async def test_lines_were_torn_at_characters_that_some_readers_take_for_line_ends(api: JobsApi) -> None:
    """Python's `splitlines` among them: JSON of lines has them escaped."""
    answer = await api.client.post("/jobs?keep_input=true", json={"text": SEPARATORS})
    job_id = answer.json()["id"]
    api.finish(api.start(job_id), *[POSITIVE] * 4)
    lines = (await api.get(f"/{job_id}/texts")).text.splitlines()
    assert [json.loads(line) for line in lines] == SEPARATORS
    path = f"/jobs/{job_id}/predictions?texts=true"
    page = await api.client.get(path, headers={"accept": "application/x-ndjson"})
    assert [json.loads(line)["text"] for line in page.text.splitlines()] == SEPARATORS
    assert "\u00e9" in page.text


async def test_a_page_may_have_more_than_a_million_results(api: JobsApi) -> None:
    job_id = await api.new("a")
    api.finish(api.start(job_id), POSITIVE)
    assert (await api.get(f"/{job_id}/predictions", limit=1_000_001)).json()["predictions"] == [POSITIVE]


async def test_results_of_another_job_of_the_same_key_were_appended(api: JobsApi) -> None:
    """The job was deleted and submitted again, with other texts, while its results were read."""
    path = "/jobs?keep_input=true"
    answer = await api.client.post(path, json={"text": ["a"] * 300}, headers={"idempotency-key": "k"})
    job_id = answer.json()["id"]
    line = json.dumps(POSITIVE).encode()

    def run() -> None:
        attempt = api.start(job_id)
        for number, count in enumerate((256, 44)):
            chunk = b"\n".join([line] * count)
            api.store.append(attempt, number, [chunk], counts=Counts(), rate=1.0, model="m@r")
        api.store.end(attempt, "finished")

    run()
    record = api.store.record(job_id)
    assert record is not None
    reading, texts = api.store.output(record, 0, 300), api.store.texts(record, 0, 256)
    assert (len(next(reading)), texts) == (256, ["a"] * 256)
    assert api.store.delete(job_id)
    await api.client.post(path, json={"text": ["b"] * 300}, headers={"idempotency-key": "k"})
    run()
    with pytest.raises(DataMissing):
        next(reading)
    with pytest.raises(DataMissing):
        api.store.texts(record, 256, 44)


async def test_below_a_prefix_the_job_of_a_location_and_the_next_page_were_not_found(api: JobsApi) -> None:
    outer = Starlette(routes=[Mount("/ml", api.app)])
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        made = await client.post("/ml/jobs", json={"text": ["a", "b"]})
        assert made.headers["location"] == f"/ml/jobs/{made.json()['id']}"
        assert (await client.get(made.headers["location"])).json()["status"] == "queued"
        asked = await client.post("/ml/predict", json={"text": ["a"]}, headers={"prefer": "respond-async"})
        assert (await client.get(asked.headers["location"])).status_code == 200
        api.finish(api.start(made.json()["id"]), POSITIVE, FAILURE)
        first = await client.get(f"{made.headers['location']}/predictions?limit=1")
        assert (await client.get(first.links["next"]["url"])).json()["predictions"] == [FAILURE]
