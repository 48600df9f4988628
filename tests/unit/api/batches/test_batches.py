"""/v1/files and /v1/batches: the flow of OpenAI's batches, over jobs in a fake Redis."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from api.settings import ApiSettings
from batcher.admin.job_eraser import JobEraser
from batcher.jobs.records import Counts, JobRecord
from batcher.jobs.results import TOO_LONG, chunk_results, encode_models
from batcher.jobs.store import JobStore
from batcher.jobs.upload import FileStore
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import FAILURE, POSITIVE, JobsApi, serving
from tests.unit.api.service import assert_problem
from tests.unit.fakes import prediction


@pytest.fixture
async def api(fake_redis: FakeRedis) -> AsyncIterator[JobsApi]:
    async with serving(
        fake_redis,
        ApiSettings(
            max_jobs_bytes=1024**2, max_job_body_bytes=2 * 1024**2, moderation_labels="POSITIVE=hate"
        ),
        without=("console",),
    ) as made:
        yield made


MONDAY = {"day": "mon"}


def request(custom_id: str, text: Any, url: str = "/v1/moderations") -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "stub", "input": text}}


def jsonl(*requests: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in requests)


async def upload(api: JobsApi, content: bytes, **fields: str) -> httpx.Response:
    data = {"purpose": "batch", **fields}
    return await api.client.post("/v1/files", data=data, files={"file": ("in.jsonl", content)})


async def create(
    api: JobsApi, content: bytes, endpoint: str = "/v1/moderations", **fields: Any
) -> httpx.Response:
    file = (await upload(api, content)).json()
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", **fields}
    return await api.client.post("/v1/batches", json=body)


def ended(api: JobsApi, batch: dict[str, Any], *results: Any) -> None:
    api.finish(api.start(batch["id"].removeprefix("batch_")), *results)


async def read(api: JobsApi, path: str) -> list[Any]:
    answer = await api.client.get(path)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_a_batch_is_found_again_once_it_has_used_the_quota(fake_redis: FakeRedis) -> None:
    keys = f"web:{sha256(b'one').hexdigest()}"
    async with serving(
        fake_redis,
        ApiSettings(api_keys=keys, quotas="web=2", moderation_labels="POSITIVE=hate"),
        without=("console",),
    ) as api:
        api.client.headers["x-api-key"] = "one"
        content = jsonl(request("1", "a"), request("2", "b"))
        file = (await upload(api, content)).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
        first, again, new = [
            await api.client.post("/v1/batches", json=body, headers={"idempotency-key": key})
            for key in ("k", "k", "new")
        ]
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json()["id"] == first.json()["id"]
        assert new.json()["error"]["code"] == "quota_exceeded"


async def test_a_file_is_kept_as_it_was_sent(api: JobsApi) -> None:
    content = jsonl(*(request(str(number), "a" * 1000) for number in range(500)))
    answer = await upload(api, content)
    assert answer.status_code == 200
    file = answer.json()
    assert (file["object"], file["purpose"], file["filename"]) == ("file", "batch", "in.jsonl")
    assert (file["bytes"], file["status"]) == (len(content), "processed")
    assert (await api.client.get(f"/v1/files/{file['id']}")).json() == file
    assert (await api.client.get(f"/v1/files/{file['id']}/content")).content == content
    deleted = await api.client.delete(f"/v1/files/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    assert_problem(await api.client.get(f"/v1/files/{file['id']}"), 404, "not_found")
    assert api.held() == []


async def test_a_batch_of_moderations(api: JobsApi) -> None:
    made = await create(api, jsonl(request("one", "a"), request("two", ["b"]), request("three", "c")))
    assert made.status_code == 200, made.text
    batch = made.json()
    assert (batch["status"], batch["endpoint"], batch["metadata"]) == ("validating", "/v1/moderations", None)
    job_id = batch["id"].removeprefix("batch_")
    assert api.store.input(job_id, 0) == ["a", "b", "c"]
    assert api.queue.rq.get_job_ids() == [job_id]
    ended(api, batch, POSITIVE, FAILURE, POSITIVE)
    batch = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (batch["status"], batch["model"], batch["errors"]) == ("completed", "m@r", None)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert batch["completed_at"] >= batch["in_progress_at"] >= batch["created_at"] > 1.7e9
    first, third = await read(api, f"/v1/files/{batch['output_file_id']}/content")
    assert [first["custom_id"], third["custom_id"]] == ["one", "three"]
    assert first["response"]["status_code"] == 200
    assert first["error"] is None
    body = first["response"]["body"]
    assert (body["id"], body["model"]) == (f"modr-{job_id}-0", "m@r")
    (result,) = body["results"]
    assert [name for name, flagged in result["categories"].items() if flagged] == ["hate"]
    assert (result["flagged"], result["category_scores"]["hate"]) == (True, 0.75)
    (second,) = await read(api, f"/v1/files/{batch['error_file_id']}/content")
    assert (second["custom_id"], second["response"]["status_code"]) == ("two", 500)
    assert second["response"]["body"]["error"]["code"] == "inference_failed"


async def test_each_line_of_a_batch_names_the_model_that_has_answered_it(api: JobsApi) -> None:
    """During an update of the workers all lines named the last one, for the scores and labels of another."""
    # An earlier version has not noted them.
    for noted, right in (
        ([encode_models(["m@old", "m@new", "m@old"])], ["m@old", "m@new", "m@old"]),
        ([], ["m@new"] * 3),
    ):
        batch = (await create(api, jsonl(*(request(one, one) for one in "abc")))).json()
        attempt = api.start(batch["id"].removeprefix("batch_"))
        lines = b"\n".join([json.dumps(POSITIVE).encode()] * 3)
        api.store.append(attempt, 0, [lines], counts=Counts(0), rate=2.0, model="m@new", models=noted)
        api.store.end(attempt, "finished")
        batch = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
        said = await read(api, f"/v1/files/{batch['output_file_id']}/content")
        assert [line["response"]["body"]["model"] for line in said] == right


async def test_a_form_with_two_files_is_refused_and_not_answered_for_one(api: JobsApi) -> None:
    files = [("file", (name, jsonl(request(name, name)))) for name in ("a.jsonl", "b.jsonl")]
    answer = await api.client.post("/v1/files", data={"purpose": "batch"}, files=files)
    assert_problem(answer, 422, "invalid_request")
    assert "more than one file" in answer.text
    assert api.held() == []


async def test_a_byte_order_mark_is_no_part_of_a_batch(api: JobsApi) -> None:
    """As editors on Windows write it, in the file and in the body that creates the batch."""
    mark = "\ufeff".encode()
    file = (await upload(api, mark + jsonl(request("one", "a"), request("two", "b")))).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
    made = await api.client.post("/v1/batches", content=mark + json.dumps(body).encode())
    assert made.status_code == 200, made.text
    batch = made.json()
    ended(api, batch, POSITIVE, POSITIVE)
    lines = await read(api, f"/v1/files/file-{batch['id'].removeprefix('batch_')}-output/content")
    assert [line["custom_id"] for line in lines] == ["one", "two"]


async def test_a_model_without_categories_answers_no_moderations(fake_redis: FakeRedis) -> None:
    async with serving(fake_redis, ApiSettings()) as api:
        made = await create(api, jsonl(request("one", "a")))
        assert made.status_code == 422
        assert "MILLRACE_MODERATION_LABELS" in made.json()["error"]["message"]
        assert (await create(api, jsonl(request("one", "a", "/v1/classify")), "/v1/classify")).is_success


async def test_a_batch_of_classifications(api: JobsApi) -> None:
    batch = (await create(api, jsonl(request("one", "a", "/v1/classify")), "/v1/classify")).json()
    ended(api, batch, POSITIVE)
    (line,) = await read(api, f"/v1/files/file-{batch['id'].removeprefix('batch_')}-output/content")
    body = line["response"]["body"]
    assert (body["object"], body["model"], body["created"]) == ("list", "m@r", batch["created_at"])
    assert body["data"] == [{"index": 0, "label": "POSITIVE", "probs": [0.25, 0.75], "num_classes": 2}]


async def test_the_results_of_a_batch_are_a_file(api: JobsApi) -> None:
    batch = (await create(api, jsonl(request("one", "a")))).json()
    name = f"file-{batch['id'].removeprefix('batch_')}-output"
    assert_problem(await api.client.delete(f"/v1/files/{name}"), 409, "batch_running")
    ended(api, batch, POSITIVE)
    found = (await api.client.get(f"/v1/files/{name}")).json()
    assert (found["id"], found["purpose"]) == (name, "batch_output")
    assert found["expires_at"] - found["created_at"] == 86_400
    assert (await api.client.delete(f"/v1/files/{name}")).status_code == 200
    assert_problem(await api.client.get(f"/v1/batches/{batch['id']}"), 404, "not_found")
    await api.client.delete(f"/v1/files/{batch['input_file_id']}")
    assert [key for key in api.held() if not key.startswith(b"rq:")] == []


async def test_a_file_of_results_was_written_for_each_question_about_its_size(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.5 s of processor time for each 30,000 lines. Its size is that of the results as they are stored."""
    batch = (await create(api, jsonl(*(request(one, one) for one in "abc")))).json()
    job_id = batch["id"].removeprefix("batch_")
    attempt, chunk = api.start(job_id), chunk_results([prediction("a"), None, prediction("c")], None)
    api.store.append(attempt, 0, [chunk.lines], counts=chunk.counts, rate=2.0, model="m@r")
    api.store.end(attempt, "finished")

    def read(*args: object) -> None:
        raise AssertionError("nothing that grows with the file is read")

    for name in ("output", "texts", "models"):
        monkeypatch.setattr(JobStore, name, read)
    monkeypatch.setattr(FileStore, "content", read)
    sizes = [
        (await api.client.get(f"/v1/files/file-{job_id}-{kind}")).json()["bytes"]
        for kind in ("output", "errors")
    ]
    assert sum(sizes) == len(chunk.lines)
    assert sizes[1] == len(TOO_LONG) + 1


async def test_files_and_results_expire_sooner_if_that_is_asked_for(api: JobsApi) -> None:
    def after(seconds: int) -> dict[str, Any]:
        return {"anchor": "created_at", "seconds": seconds}

    answer = await upload(
        api,
        jsonl(request("one", "a")),
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "90"},
    )
    file = answer.json()
    assert file["expires_at"] - file["created_at"] == 90
    key = f"{{millrace-jobs:default}}:file:{file['id'].removeprefix('file-')}"
    assert 0 < api.redis.pttl(key) <= 90_000
    body = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
    batch = (await api.client.post("/v1/batches", json={**body, "output_expires_after": after(3600)})).json()
    assert api.redis.ttl(key) == -1, "its batch has not ended"
    ended(api, batch, POSITIVE)
    job_id = batch["id"].removeprefix("batch_")
    assert 3_500_000 < api.redis.pttl(f"{{millrace-jobs:default}}:job:{job_id}:output") <= 3_600_000
    assert 3_500_000 < api.redis.pttl(key) <= 3_600_000, "the results need its ids"
    output = (await api.client.get(f"/v1/files/file-{job_id}-output")).json()
    assert output["expires_at"] - output["created_at"] == 3600
    longest = await create(api, jsonl(request("one", "a")), output_expires_after=after(86_400))
    assert longest.status_code == 200, longest.text
    for expiry in (after(86_401), after(0), {"anchor": "other", "seconds": 60}):
        refused = await api.client.post("/v1/batches", json={**body, "output_expires_after": expiry})
        assert "output_expires_after" in str(assert_problem(refused, 422, "invalid_request")["detail"])
    for anchor, seconds in (
        ("created_at", "172801"),
        ("created_at", "soon"),
        ("other", "60"),
        ("created_at", ""),
        ("created_at", None),
        (None, "60"),
    ):
        fields = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
        refused = await upload(
            api, b"x", **{name: value for name, value in fields.items() if value is not None}
        )
        assert "expires_after[seconds]" in str(assert_problem(refused, 422, "invalid_request")["detail"])


async def test_results_need_the_ids_in_the_input_file(api: JobsApi) -> None:
    batch = (await create(api, jsonl(request("one", "a")))).json()
    ended(api, batch, POSITIVE)
    await api.client.delete(f"/v1/files/{batch['input_file_id']}")
    name = f"file-{batch['id'].removeprefix('batch_')}-output"
    problem = assert_problem(await api.client.get(f"/v1/files/{name}/content"), 404, "not_found")
    assert "input file" in str(problem["detail"])


async def test_a_file_that_was_cut_meanwhile_logged_a_traceback(
    api: JobsApi, caplog: pytest.LogCaptureFixture
) -> None:
    """The ids of the results are in the input file. Without its end, results were left out."""
    whole = jsonl(request("one", "a"), request("two", "b"))
    for content in (b"", whole.splitlines(keepends=True)[0]):
        batch = (await create(api, whole)).json()
        ended(api, batch, POSITIVE, POSITIVE)
        (key,) = api.redis.scan_iter(f"*:file:{batch['input_file_id'].removeprefix('file-')}")
        api.redis.hset(key, "0", content) if content else api.redis.hdel(key, "0")
        output = f"/v1/files/file-{batch['id'].removeprefix('batch_')}-output"
        assert assert_problem(await api.client.get(f"{output}/content"), 404, "not_found")["error"]
    body = {
        "input_file_id": batch["input_file_id"],
        "endpoint": "/v1/moderations",
        "completion_window": "24h",
    }
    api.redis.hdel(key, "0")
    assert_problem(await api.client.post("/v1/batches", json=body), 404, "not_found")
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_line_that_another_revision_answered_cut_the_results_off(api: JobsApi) -> None:
    """The labels of the published revision were categories, and those of the result were not."""
    batch = (await create(api, jsonl(request("one", "a"), request("two", "b")))).json()
    ended(api, batch, [{"label": "spam", "score": 1.0}], POSITIVE)
    name = f"file-{batch['id'].removeprefix('batch_')}-output"
    first, second = (line["response"] for line in await read(api, f"/v1/files/{name}/content"))
    assert (first["status_code"], second["status_code"]) == (422, 200)
    assert "MILLRACE_MODERATION_LABELS" in first["body"]["error"]["message"]
    assert second["body"]["results"][0]["category_scores"]["hate"] == 0.75


async def test_a_batch_is_cancelled(api: JobsApi) -> None:
    batch = (await create(api, jsonl(request("one", "a")))).json()
    for _ in range(2):
        cancelled = (await api.client.post(f"/v1/batches/{batch['id']}/cancel")).json()
        assert (cancelled["id"], cancelled["status"]) == (batch["id"], "cancelled")
    assert cancelled["cancelled_at"] is not None
    assert cancelled["output_file_id"] is None
    assert api.queue.rq.get_job_ids() == []


@pytest.mark.parametrize("runs", [True, False])
async def test_the_file_of_a_batch_that_has_not_ended_kept_a_forgotten_text(api: JobsApi, runs: bool) -> None:
    batch = (await create(api, jsonl(request("one", "a"), request("two", "b")))).json()
    if not runs:
        ended(api, batch, POSITIVE, POSITIVE)
    eraser = JobEraser(api.redis, "default", api.store, api.queue.forget)
    assert eraser.text("other") == (0, 0)
    assert eraser.text("b") == (int(runs), 1)
    assert (await api.client.get(f"/v1/files/{batch['input_file_id']}")).status_code == 404
    assert (await api.client.get(f"/v1/batches/{batch['id']}")).status_code == 200


async def test_a_batch_that_ends_while_it_is_cancelled_keeps_its_results(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted."""
    batch, read_record = (await create(api, jsonl(request("one", "a")))).json(), api.store.record

    def then_ends(job_id: str) -> JobRecord | None:
        record = read_record(job_id)
        if record is not None and not record.ended:
            ended(api, batch, POSITIVE)
        return record

    monkeypatch.setattr(api.store, "record", then_ends)
    answer = await api.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert (await api.client.get(f"/v1/batches/{batch['id']}")).json()["output_file_id"] is not None


async def test_a_batch_that_failed_says_why(api: JobsApi) -> None:
    batch = (await create(api, jsonl(request("one", "a")))).json()
    attempt = api.start(batch["id"].removeprefix("batch_"))
    api.store.end(attempt, "failed", "job_timeout", "the job ran for too long")
    found = (await api.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (found["status"], found["output_file_id"]) == ("failed", None)
    assert found["failed_at"] is not None
    (error,) = found["errors"]["data"]
    assert (error["code"], error["message"]) == ("job_timeout", "the job ran for too long")


@pytest.mark.parametrize("looks", [1, 2, 1000])
async def test_batches_are_listed_without_other_jobs(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Of a page, the store examines so many jobs at a time."""
    monkeypatch.setattr("batcher.jobs.store.MAX_LOOKS", looks)
    file = (await upload(api, jsonl(request("one", "a")))).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
    made = []
    for number in range(5):
        made.append(
            (await api.client.post("/v1/batches", json={**body, "metadata": {"n": str(number)}})).json()
        )
        await api.new("a job that is not a batch")
    newest = [batch["id"] for batch in reversed(made)]
    first = (await api.client.get("/v1/batches", params={"limit": 3})).json()
    assert [batch["id"] for batch in first["data"]] == newest[:3]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, newest[0], newest[2])
    rest = (await api.client.get("/v1/batches", params={"limit": 3, "after": first["last_id"]})).json()
    assert [batch["metadata"]["n"] for batch in rest["data"]] == ["1", "0"]
    assert (rest["has_more"], rest["first_id"], rest["last_id"]) == (False, newest[3], newest[4])
    every = (await api.client.get("/v1/batches", params={"limit": 5})).json()
    assert ([batch["id"] for batch in every["data"]], every["has_more"]) == (newest, False)
    none = (await api.client.get("/v1/batches", params={"after": newest[4]})).json()
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    limits = [
        (await api.client.get("/v1/batches", params={"limit": n})).status_code for n in (0, 1, 100, 101)
    ]
    assert limits == [422, 200, 200, 422]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}\n", 'line 1: the string "custom_id" is missing'),
        (jsonl(request("a", "a"), {**request("b", "b"), "url": "/v1/embeddings"}), "line 2: expected method"),
        (jsonl(request("a", ["b", "c"])), 'line 1: "input" of the body must be one string'),
        (jsonl(request("a", 3)), "line 1: input: must be a string or a list of strings"),
        (jsonl({**request("a", "a"), "body": None}), 'line 1: the field "body" must be an object'),
        (jsonl(request("", "a")), 'line 1: the string "custom_id" is empty'),
        (jsonl(request("a", "a") | {"custom_id": 3}), 'line 1: the string "custom_id" is missing'),
        (
            jsonl(request("a", "a") | {"method": "GET"}),
            "line 1: expected method POST and url /v1/moderations",
        ),
        (
            jsonl({**request("a", "a"), "body": {"input": "a"}}, request("b", "b"), request("c", "c", "x")),
            "line 3: expected method POST and url /v1/moderations",
        ),
        (
            jsonl(request("a", "a"), {**request("b", "b"), "body": {"input": "a", "model": "other"}}),
            "line 2: this line asks for another model than the first one: make a batch for each model",
        ),
        (
            jsonl(request("a", "a"), request("b", "b"), request("a", "c")),
            'line 3: line 1 has the same custom_id "a": give each its own',
        ),
        (
            jsonl({**request("a", "a"), "body": {"input": "a", "text": ["b"]}}),
            'line 1: unknown field "text"; known are input, model',
        ),
        (b"[1]\n", "line 1: expected an object"),
        (b"not json\n", "line 1: not valid JSON"),
        (
            b'{"custom_id": "\\ud800", "method": "POST", "url": "/v1/moderations", "body": {"input": "a"}}',
            "surrogate",
        ),
        (b"\n\n", "there are no texts"),
    ],
)
async def test_a_line_that_is_not_a_request_with_one_text(api: JobsApi, content: bytes, why: str) -> None:
    problem = assert_problem(await create(api, content), 422, "invalid_request")
    assert why in problem["error"]["message"]  # type: ignore[index]
    assert problem["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert api.queue.rq.get_job_ids() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "/v1/embeddings"},
        {"completion_window": "1h"},
        {"metadata": {"a": 1}},
        {"input_file_id": 3},
    ],
)
async def test_a_batch_of_another_kind(api: JobsApi, fields: dict[str, Any]) -> None:
    file = (await upload(api, jsonl(request("a", "a")))).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h", **fields}
    problem = assert_problem(await api.client.post("/v1/batches", json=body), 422, "invalid_request")
    assert next(iter(fields)) in str(problem["detail"])


@pytest.mark.parametrize("body", [b"", b"{", b"x" * 70_000])
async def test_a_body_that_is_not_a_batch(api: JobsApi, body: bytes) -> None:
    answer = await api.client.post("/v1/batches", content=body)
    assert answer.status_code == (413 if len(body) > 1000 else 422)


async def test_of_a_field_of_a_form_that_was_given_twice_the_last_one_counted(api: JobsApi) -> None:
    fields = [("expires_after[anchor]", "created_at"), *(("expires_after[seconds]", n) for n in ("60", "90"))]
    form = [*fields, ("purpose", "batch")]
    files = [*((name, (None, value)) for name, value in form), ("file", ("in.jsonl", b"{}"))]
    problem = assert_problem(await api.client.post("/v1/files", files=files), 422, "invalid_request")
    assert "more than one expires_after[seconds]" in str(problem["detail"])
    assert api.held() == []


async def test_the_body_of_a_batch_was_read_whatever_its_type(api: JobsApi) -> None:
    kind = {"content-type": "text/plain"}
    answer = await api.client.post("/v1/batches", content=b"{}", headers=kind)
    assert_problem(answer, 415, "unsupported_media_type")


async def test_an_error_of_a_batch_did_not_name_the_field(api: JobsApi) -> None:
    for body, name in (
        (b"{}", "input_file_id"),
        (b'{"input_file_id": "a", "endpoint": "/v1/embeddings"}', "endpoint"),
    ):
        answer = await api.client.post("/v1/batches", content=body)
        assert_problem(answer, 422, "invalid_request")
        assert name in answer.json()["error"]["message"]


async def test_a_file_that_is_not_for_a_batch(api: JobsApi) -> None:
    answers = [
        await upload(api, b"x", purpose="fine-tune"),
        await upload(api, b""),
        await api.client.post("/v1/files", data={"purpose": "batch"}, files={"other": b"x"}),
    ]
    for answer in answers:
        assert_problem(answer, 422, "invalid_request")
    assert_problem(await api.client.post("/v1/files", json={}), 415, "unsupported_media_type")
    assert api.held() == []


async def test_files_count_towards_the_space_of_jobs(api: JobsApi) -> None:
    problem = assert_problem(await upload(api, b"x" * 1_200_000), 413, "job_too_large")
    assert problem["detail"] == "the file needs more than the 1048576 bytes that a job may use"
    assert_problem(await upload(api, b"x" * 3_000_000), 413, "too_large")
    assert api.held() == []
    assert (await upload(api, b"x" * 600_000)).status_code == 200
    assert_problem(await upload(api, b"x" * 600_000), 507, "client_jobs_full")


@pytest.mark.parametrize("path", ["files/x", "files/file-" + "0" * 32, "files/file-" + "0" * 32 + "-output"])
async def test_a_file_that_does_not_exist(api: JobsApi, path: str) -> None:
    problem = assert_problem(await api.client.get(f"/v1/{path}"), 404, "not_found")
    assert problem["error"]["message"] == problem["detail"]  # type: ignore[index]


async def test_a_file_that_a_replica_does_not_have_yet_is_asked_of_the_master(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr("batcher.jobs.upload.leave_replica", lambda client, key: left.append(key))
    file = (await upload(api, b"{}")).json()["id"]
    assert (await api.client.get(f"/v1/files/{file}")).status_code == 200
    assert left == []
    await api.client.get(f"/v1/files/file-{'0' * 32}")
    assert left == [f"{{millrace-jobs:default}}:file:{'0' * 32}"]


async def test_a_job_is_not_a_batch(api: JobsApi) -> None:
    job_id = await api.new("a")
    assert_problem(await api.client.get(f"/v1/batches/batch_{job_id}"), 404, "not_found")
    assert_problem(await api.client.get("/v1/batches", params={"after": "x"}), 404, "not_found")


async def test_files_and_batches_belong_to_the_name_of_the_key(fake_redis: FakeRedis) -> None:
    from hashlib import sha256

    keys = ",".join(f"{name}:{sha256(name.encode()).hexdigest()}" for name in ("mine", "yours"))
    async with serving(fake_redis, ApiSettings(moderation_labels="POSITIVE=hate", api_keys=keys)) as api:
        api.client.headers["authorization"] = "Bearer mine"
        batch = (await create(api, jsonl(request("a", "a")))).json()
        paths = [f"/v1/files/{batch['input_file_id']}", f"/v1/batches/{batch['id']}"]
        assert [(await api.client.get(path)).status_code for path in paths] == [200, 200]
        api.client.headers["authorization"] = "Bearer yours"
        assert [(await api.client.get(path)).status_code for path in paths] == [404, 404]
        assert (await api.client.get("/v1/batches")).json()["data"] == []


async def test_the_model_of_a_batch_was_looked_for_after_its_client_had_left(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file of blank lines, and in one of the threads in which all routes of jobs read."""
    file = (await upload(api, jsonl(request("a", "a")))).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
    body = json.dumps(asked).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    read = 0

    def blank(*_: object) -> Iterator[bytes]:
        nonlocal read
        for _ in range(3000):
            read += 1
            time.sleep(0.001)
            yield b"\n"

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        assert message.get("status", 499) == 499

    monkeypatch.setattr(FileStore, "content", blank)
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/batches", "raw_path": b"",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await api.app(scope, receive, send)
    assert read < 3000


@pytest.mark.parametrize(
    "other",
    [
        {"lines": jsonl(request("tue-1", "a"), request("tue-2", "b"))},
        {"lines": jsonl(request("mon-2", "a"), request("mon-1", "b"))},
        {"metadata": {"day": "tue"}},
        {"metadata": None},
        {"endpoint": "/v1/classify"},
    ],
)
async def test_a_key_that_was_used_answered_with_the_batch_of_another_file(
    api: JobsApi, other: dict[str, Any]
) -> None:
    """Only its texts were compared: a client got the custom ids of Monday's file for Tuesday's."""
    monday = jsonl(request("mon-1", "a"), request("mon-2", "b"))
    headers = {"idempotency-key": "daily"}

    async def send(
        lines: bytes = monday, metadata: Any = MONDAY, endpoint: str = "/v1/moderations"
    ) -> httpx.Response:
        lines = lines.replace(b"/v1/moderations", endpoint.encode())
        file = (await upload(api, lines)).json()["id"]
        body = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": metadata}
        return await api.client.post("/v1/batches", json=body, headers=headers)

    first = (await send()).json()
    assert (await send()).json() == first, "the same content, uploaded again"
    problem = assert_problem(await send(**other), 409, "idempotency_conflict")
    assert problem["job"] == first["id"].removeprefix("batch_")
    job = await api.client.post("/jobs", json={"text": ["a", "b"]}, headers=headers)
    assert_problem(job, 409, "idempotency_conflict")


BODIES: list[Any] = [
    {"input": "a"},
    {"input": ["a"]},
    {"input": []},
    {"input": 3},
    {"input": [3]},
    {"input": None},
    {},
    {"input": {"text": "a"}},
    {"input": [{"type": "text", "text": "a"}]},
    {"input": [{"type": "image_url", "image_url": {"url": "x"}}]},
    {"input": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"input": [{"type": "text"}]},
    {"input": "a", "model": 3},
    {"input": "a", "model": "unknown"},
    {"input": "a", "model": None},
    {"input": "a", "text": "b"},
    {"input": "a", "inputs": ["b"]},
    {"input": "a", "extra": 1},
    {"input": "a", "messages": []},
    {"input": "a", "messages": None},
    {"input": "a", "use_activation": False},
    {"input": "a", "softmax": True},
    {"input": "a", "activation": "x"},
    {"input": "a", "truncate_prompt_tokens": -1},
    {"input": "a", "truncate_prompt_tokens": -2},
    {"input": "a", "truncate_prompt_tokens": 1},
    {"input": "a", "truncate_prompt_tokens": 100},
    {"input": "a", "truncation_side": "right"},
    {"input": "a", "truncation_side": "middle"},
    {"input": "\ud800"},
    [],
    "a",
    None,
]


@pytest.mark.parametrize("endpoint", ["/v1/moderations", "/v1/classify"])
@pytest.mark.parametrize("body", BODIES, ids=repr)
async def test_a_line_is_accepted_if_the_same_request_is(api: JobsApi, endpoint: str, body: Any) -> None:
    live = await api.client.post(endpoint, content=json.dumps(body).encode())
    line = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}
    batch = await create(api, jsonl(line), endpoint)
    assert live.is_success == batch.is_success, (live.text, batch.text)
    if not batch.is_success:
        assert batch.status_code in (400, 422)
        assert len(batch.json()["error"]["message"]) > 10


@pytest.mark.parametrize("field", ["priority", "compleation_window"])
async def test_an_unknown_field_of_a_batch_had_no_effect(api: JobsApi, field: str) -> None:
    content = jsonl(request("one", "a"))
    problem = assert_problem(await create(api, content, **{field: "x"}), 422, "invalid_request")
    assert f'unknown field "{field}"' in str(problem["detail"])
    expiry = {"anchor": "created_at", "seconds": 60, "minutes": 1}
    assert_problem(await create(api, content, output_expires_after=expiry), 422, "invalid_request")
    problem = assert_problem(
        await create(api, jsonl(request("one", "a") | {field: "x"})), 422, "invalid_request"
    )
    assert f'line 1: unknown field "{field}"' in str(problem["detail"])


async def test_fields_that_the_route_names_in_x_ignored_had_no_effect_in_lines(api: JobsApi) -> None:
    lines = [request(f"{number}", "a", "/v1/classify") for number in range(3)]
    lines[1]["body"] |= {"user": "me"}
    lines[2]["body"] |= {"colour": "red"}
    created = await create(api, jsonl(*lines), "/v1/classify")
    assert (created.status_code, created.headers["x-ignored"]) == (200, "body.user, body.colour")
    for number, line in enumerate(lines):
        line["body"] |= {f"x{at}": 1 for at in range(16)} if number == 0 else {}
    created = await create(api, jsonl(*lines), "/v1/classify")
    named = ", ".join(f"body.x{at}" for at in range(16))
    assert created.headers["x-ignored"] == f"{named}, and 1 more"
    assert "x-ignored" not in (await create(api, jsonl(request("one", "a")))).headers


@pytest.mark.parametrize(
    "more", [{"model_name": "topics"}, {"model": "stub", "Model": "topics"}, {"modelId": 7}]
)
async def test_a_line_that_called_its_model_otherwise_was_answered_by_the_first_one(
    api: JobsApi, more: dict[str, Any]
) -> None:
    line = request("one", "a", "/v1/classify")
    line["body"] |= more
    problem = assert_problem(await create(api, jsonl(line), "/v1/classify"), 422, "invalid_request")
    assert "line 1: model: " in str(problem["detail"])
    line["body"] |= dict.fromkeys(more, "stub")
    assert (await create(api, jsonl(line), "/v1/classify")).status_code == 200
