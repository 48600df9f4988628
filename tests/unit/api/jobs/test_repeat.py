"""POST /jobs with an Idempotency-Key: repeated requests create one job."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import httpx
import pytest

from api.jobs.upload import digested
from tests.unit.api.jobs.jobs_api import CSV, NDJSON, JobsApi, Start
from tests.unit.api.service import assert_problem


async def test_the_same_key_twice_is_one_job(api: JobsApi) -> None:
    first = await api.submit("a", "b", idempotency_key="k")
    second = await api.submit("a", "b", idempotency_key="k")
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == first.headers["location"]
    assert api.store.totals().queued == 1
    assert len(api.queue.rq) == 1


async def test_the_same_key_with_another_body_is_a_conflict(api: JobsApi) -> None:
    first = await api.submit("a", "b", idempotency_key="k")
    for texts in (("a", "c"), ("ab",), ("a", "b", "")):
        problem = assert_problem(await api.submit(*texts, idempotency_key="k"), 409, "idempotency_conflict")
        assert problem["job"] == first.json()["id"]


async def test_the_same_key_with_other_options_is_a_conflict(start: Start) -> None:
    """The job of the first request was returned, without what the second asked for."""
    api = await start(webhook_secrets="whsec_" + "a" * 32)
    url = "https://example.com/hook"
    for first, second in (
        ({}, {"params": {"keep_input": "true"}}),
        ({"params": {"keep_input": "true"}}, {}),
        ({}, {"headers": {"webhook-url": url}}),
        ({"headers": {"webhook-url": url}}, {"headers": {"webhook-url": f"{url}2"}}),
    ):
        key = {"idempotency-key": f"{first} {second}"}

        async def send(options: dict[str, Any], key: dict[str, str] = key) -> httpx.Response:
            headers = {**key, **options.get("headers", {})}
            body = {"text": ["a", "b"]}
            return await api.client.post("/jobs", json=body, headers=headers, params=options.get("params"))

        made = await send(first)
        assert (made.status_code, (await send(first)).status_code) == (202, 200)
        problem = assert_problem(await send(second), 409, "idempotency_conflict")
        assert problem["job"] == made.json()["id"]
        assert "keep_input" in str(problem["detail"])


async def test_the_same_texts_in_another_form_are_the_same_job(api: JobsApi) -> None:
    """Whatever the route and the format of the body."""
    first = await api.submit("é", "b", idempotency_key="k")
    key = {"idempotency-key": "k"}
    for path, body, headers in (
        ("/jobs", b'{"text": ["\\u00e9", "b"]}', {}),
        ("/jobs", '"é"\n"b"\n'.encode(), NDJSON),
        ("/jobs", "text\né\nb\n".encode(), CSV),
        ("/predict", '{"text":["é","b"]}'.encode(), {"prefer": "respond-async"}),
    ):
        answer = await api.client.post(path, content=body, headers={**key, **headers})
        assert (answer.status_code, answer.json()["id"]) == (200, first.json()["id"])


async def test_a_repeat_that_makes_no_sense_is_told_so(api: JobsApi) -> None:
    await api.submit("a", idempotency_key="k")
    answer = await api.client.post("/jobs", content=b"{", headers={"idempotency-key": "k"})
    assert_problem(answer, 422, "invalid_request")


async def test_two_at_once_with_one_key_are_one_job(api: JobsApi) -> None:
    answers = await asyncio.gather(*(api.submit("a", "b", idempotency_key="k") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert not [key for key in api.held() if b":upload:" in key]


async def test_a_key_belongs_to_the_one_who_chose_it(start: Start) -> None:
    digests = ",".join(sha256(key).hexdigest() for key in (b"one", b"two"))
    api = await start(api_keys=digests)
    assert_problem(await api.submit("a", idempotency_key="k"), 401, "unauthorized")
    one, again, two = [
        await api.submit("a", idempotency_key="k", authorization=f"Bearer {key}")
        for key in ("one", "one", "two")
    ]
    assert (one.status_code, again.status_code, two.status_code) == (202, 200, 202)
    assert one.json()["id"] == again.json()["id"] != two.json()["id"]


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none_is_refused(api: JobsApi, key: str) -> None:
    problem = assert_problem(await api.submit("a", idempotency_key=key), 422, "invalid_request")
    assert problem["detail"] == "Idempotency-Key must be given once, with 1 to 255 characters"


async def test_a_key_has_up_to_255_characters_and_is_given_once(api: JobsApi) -> None:
    for key in ("k", "k" * 255):
        assert (await api.submit("a", idempotency_key=key)).status_code == 202
    twice = [("idempotency-key", "k"), ("idempotency-key", "k")]
    answer = await api.client.post("/jobs", json={"text": ["a"]}, headers=twice)
    assert_problem(answer, 422, "invalid_request")


async def test_finding_14_a_job_handed_in_again_after_its_deletion_is_enqueued(api: JobsApi) -> None:
    for ended in ("finished", "cancelled"):
        first = (await api.submit("a", idempotency_key="again")).json()["id"]
        assert api.queue.rq.get_job_ids() == [first]
        api.queue.rq.pop_job_id()  # RQ's record of the job stays for a day
        api.store.end(api.start(first), ended)
        assert (await api.client.delete(f"/jobs/{first}")).status_code == 204
        again = await api.submit("b", idempotency_key="again")
        assert (again.status_code, again.json()["id"]) == (202, first)
        assert api.queue.rq.get_job_ids() == [first]
        await api.client.delete(f"/jobs/{first}")
        await api.client.delete(f"/jobs/{first}")


@pytest.mark.parametrize(("model", "begins"), [("", b""), ("topics", b"topics\n")])
def test_a_repeat_has_the_same_texts_for_the_same_model(model: str, begins: bytes) -> None:
    """The lengths tell "a", "bc" from "ab", "c"."""
    given = bytearray()
    assert list(digested(["a", "b\u00e9"], model, given.extend)) == ["a", "b\u00e9"]
    assert given == begins + b"1:a3:b\xc3\xa9"
