"""Who causes the load, holding one client back, usage, and the search for jobs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import redis

from batcher.core.holds import MAX_HOLDS, ClientHolds
from batcher.core.snapshot import Sweep
from tests.unit.api.admin.conftest import ADMIN, AdminApi, P, Start, keys
from tests.unit.api.admin.test_forget import job
from tests.unit.fakes import RUNNING


def look(api: AdminApi) -> None:
    """The hub reads the snapshot, as it does every second; its workers go on."""
    (snapshot,) = api.worker().run([Sweep("a", 3)])
    api.hub.snapshot = replace(RUNNING, holds=snapshot.holds)


async def hold(api: AdminApi, client: str, what: str = "all", for_s: float = 60) -> httpx.Response:
    """Holds a client back, and lets the hub see it."""
    answer = await api.post("/clients/hold", client=client, what=what, for_s=for_s)
    look(api)
    return answer


async def predict(api: AdminApi, text: str, key: str = "") -> httpx.Response:
    return await api.client.post("/predict", json={"text": [text]}, headers={"x-api-key": key} if key else {})


async def test_a_client_is_held_back_until_its_end(start: Start) -> None:
    api = await start(api_keys=keys(web="one", phone="two"))
    assert (await hold(api, "key:web")).status_code == 200
    answer = await predict(api, "a", "one")
    assert (answer.status_code, answer.json()["code"]) == (429, "client_paused")
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    jobs = await api.client.post("/jobs", json={"text": ["a"]}, headers={"x-api-key": "one"})
    assert (jobs.status_code, jobs.json()["code"]) == (429, "client_paused")
    compat = await api.client.post(
        "/v1/classify", json={"input": "a"}, headers={"authorization": "Bearer one"}
    )
    assert compat.status_code == 429
    assert (await predict(api, "a", "two")).status_code != 429
    (held,) = (await api.get("/clients")).json()["held"]
    assert (held["client"], held["what"]) == ("key:web", "all")
    assert (await api.post("/clients/resume", client="key:web")).json() == {"ended": True}
    assert (await api.post("/clients/resume", client="key:web")).json() == {"ended": False}
    again, ended, held = (await api.get("/audit")).json()["audit"]
    assert [line["action"] for line in (again, ended, held)] == ["resume_client", "resume_client", "hold"]
    assert [(line["client"], line["ended"]) for line in (again, ended)] == [
        ("key:web", False),
        ("key:web", True),
    ]
    assert (held["client"], held["what"], held["for_s"]) == ("key:web", "all", 60)


@pytest.mark.parametrize("path", ["/predict", "/v1/classify", "/v1/models/stub:predict"])
async def test_dialects_read_the_body_of_a_client_that_was_held_back(start: Start, path: str) -> None:
    api = await start()
    assert (await hold(api, "127.0.0.1")).status_code == 200
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(path)
        yield b"{}"

    answer = await api.client.post(path, content=body(), headers={"content-type": "application/json"})
    assert (answer.status_code, read) == (429, [])


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.ResponseError("Error running script: @user_script: 9: -OOM command not allowed"),
    ],
)
async def test_a_full_redis_seemed_to_refuse_operators_or_not_to_answer(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ClientHolds, "set", fail)
    monkeypatch.setattr(type(api.store), "records", fail)
    held = await api.post("/clients/hold", client="key:web", what="all", for_s=1)
    found = await api.client.get(f"/jobs/{'a' * 32}")
    for answer in (held, found):
        assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
        assert answer.json()["detail"].startswith("Redis is full")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_client_that_is_held_back_could_upload_files(start: Start) -> None:
    api = await start(api_keys=keys(web="one"))
    await hold(api, "key:web")
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}")}}
    answer = await api.client.post("/v1/files", **form, headers={"x-api-key": "one"})
    assert (answer.status_code, answer.json()["code"]) == (429, "client_paused")
    await api.post("/clients/resume", client="key:web")
    look(api)
    assert (await api.client.post("/v1/files", **form, headers={"x-api-key": "one"})).status_code == 200


async def test_only_what_no_cache_knows_is_refused_if_asked(api: AdminApi) -> None:
    api.cache.keep("known")
    await hold(api, "127.0.0.1", "uncached")
    assert (await predict(api, "known")).status_code == 200
    answer = await predict(api, "new")
    assert (answer.status_code, answer.json()["code"]) == (429, "client_paused")


async def test_a_client_whose_new_texts_were_refused_could_send_them_as_jobs(api: AdminApi) -> None:
    await hold(api, "127.0.0.1", "uncached")
    body = {"text": ["new"]}
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}")}}
    for answer in (
        await api.client.post("/jobs", json=body),
        await api.client.post("/predict", json=body, headers={"prefer": "respond-async"}),
        await api.client.post("/v1/files", **form),
    ):
        assert (answer.status_code, answer.json()["code"]) == (429, "client_paused")
        assert "new texts" in answer.json()["detail"]
        assert 55 <= int(answer.headers["retry-after"]) <= 60
    assert (await api.client.get("/jobs")).json()["jobs"] == []


async def test_a_hold_ends_by_itself(api: AdminApi) -> None:
    api.redis.hset(f"{P}:snapshot", "hold:127.0.0.1", f"all {time.time() - 5:.0f}")
    look(api)
    assert (await predict(api, "a")).status_code != 429
    assert (await api.get("/clients")).json()["held"] == []


async def test_holds_are_bounded(api: AdminApi) -> None:
    fields = {f"hold:192.0.2.{number}": f"all {time.time() + 60:.0f}" for number in range(MAX_HOLDS)}
    api.redis.hset(f"{P}:snapshot", mapping=fields)
    answer = await hold(api, "key:one-more")
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_holds")
    assert (await hold(api, "192.0.2.1", for_s=5)).status_code == 200


HOSTILE: list[dict[str, Any]] = [
    {},
    {"client": "key:web"},
    {"client": "a b", "for_s": 1},
    {"client": "x\nworkers", "for_s": 1},
    {"client": "key:web", "for_s": -1},
    {"client": "key:web", "for_s": 1e9},
    {"client": "key:web", "for_s": 1, "what": "some"},
]


async def test_a_hostile_hold_is_422(api: AdminApi) -> None:
    for body in HOSTILE:
        assert (await api.post("/clients/hold", **body)).status_code == 422, body
    assert not [name for name in api.redis.hkeys(f"{P}:snapshot") if name.startswith(b"hold:")]


async def test_an_answer_does_not_list_thousands_of_unknown_fields(api: AdminApi) -> None:
    """64 KB of them got 570 KB."""
    body = {"client": "key:web", "for_s": 1, **{f"u{number}": 0 for number in range(6000)}}
    answer = await api.post("/clients/hold", **body)
    assert answer.status_code == 422
    assert [mistake["loc"] for mistake in answer.json()["detail"]] == [["body", f"u{n}"] for n in range(10)]


async def test_each_of_100_000_unknown_fields_took_a_kilobyte_of_memory(api: AdminApi) -> None:
    body = {"client": "key:web", "for_s": 1, **dict.fromkeys(map(str, range(100_000)), 0)}
    answer = await api.post("/clients/hold", **body)
    (mistake,) = answer.json()["detail"]
    assert (answer.status_code, mistake["loc"]) == (422, ["body"])
    assert "must not have more than 10,000 fields" in mistake["msg"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_a_body_that_is_not_sent_as_json_is_415(api: AdminApi, kind: str) -> None:
    body = json.dumps({"client": "key:web", "for_s": 60})
    headers = ADMIN | ({"content-type": kind} if kind else {})
    answer = await api.client.post("/admin/clients/hold", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in answer.json()["detail"]
    assert answer.headers["accept"] == "application/json"
    assert not [name for name in api.redis.hkeys(f"{P}:snapshot") if name.startswith(b"hold:")]


async def test_usage_is_json_or_csv(start: Start) -> None:
    api = await start(quotas="web=1000")
    day = f"{time.strftime('%Y-%m-%d', time.gmtime())}"
    api.redis.hset(f"{P}:usage:{day}", mapping={"web texts": 5, "web requests": 2, "- texts": 1})
    api.redis.hset(f"{P}:usage:2001-01-01", mapping={"web texts": 9})
    found = (await api.get("/usage", key="web")).json()
    assert found["quotas"] == {"web": 1000}
    row = {"day": day, "key": "web", "texts": 5, "tokens": 0, "requests": 2, "hits": 0, "errors": 0}
    assert found["usage"] == [row]
    answer = await api.get("/usage", format="csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.splitlines() == [
        "day,key,texts,tokens,requests,hits,errors",
        f"{day},-,1,0,0,0,0",
        f"{day},web,5,0,2,0,0",
    ]
    assert (await api.get("/usage", last="2001-01-01")).json()["usage"] == []
    for query in ({"first": "x"}, {"key": "*"}, {"format": "xml"}, {"from": "2001-01-01"}):
        assert (await api.get("/usage", **query)).status_code == 422


async def test_jobs_are_found_by_status_name_and_client(api: AdminApi) -> None:
    first, second = job(api, "a", owner="key:web"), job(api, "b", owner="key:phone")
    facts: dict[str, Any] = {"name": "Reviews.csv", "format": "csv", "description": "CSV", "gzipped": False}
    facts |= {"delimiter": ",", "encoding": "utf-8", "column": "text"}
    api.redis.hset(f"{{millrace-jobs:default}}:job:{second}", "file", json.dumps(facts))
    api.store.cancel(first)

    async def found(**query: Any) -> list[str]:
        return [one["id"] for one in (await api.get("/jobs", **query)).json()["jobs"]]

    assert await found() == [second, first]
    assert await found(status="cancelled") == [first]
    assert await found(client="key:phone") == [second]
    assert await found(search=first[:9]) == [first]
    assert await found(search="review") == [second]
    assert await found(search="no such") == []
    for query in ({"search": first[:9]}, {"client": "key:web"}):
        assert await found(limit=1, **query) == [first], "behind one that does not match"
    for query in ({"status": "any"}, {"client": "*"}, {"search": "x" * 201}, {"cursor": "x"}, {"a": "b"}):
        assert (await api.get("/jobs", **query)).status_code == 422


async def test_a_page_of_jobs_takes_few_round_trips(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        job(api, f"text {number}", owner=f"key:c{number % 3}")
    seen: list[str] = []
    cursor: str | None = ""
    sent: list[int] = []
    execute = redis.client.Pipeline.execute

    def counting(self: Any, raise_on_error: bool = True) -> Any:
        sent.append(len(self.command_stack))
        return execute(self, raise_on_error)

    monkeypatch.setattr(redis.client.Pipeline, "execute", counting)
    while cursor is not None:
        page = (await api.get("/jobs", client="key:c1", limit=3, cursor=cursor)).json()
        seen += [one["id"] for one in page["jobs"]]
        cursor = page["next_cursor"]
    assert len(set(seen)) == len(seen) == 10
    # Four pages. The counters of the process are written meanwhile, too.
    assert 4 <= len(sent) <= 12
    assert max(sent) <= 1000
