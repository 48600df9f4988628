"""Each capability of the application can be left out; the rest answers as before."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from api.admin.service import ConsoleStores
from api.jobs.service import JobBackend
from api.main import create_app
from api.parts import CAPABILITIES, Backends, Capability
from api.settings import ApiSettings
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from tests.conftest import FakeRedis
from tests.unit.api.admin.conftest import ADMIN, keys
from tests.unit.fakes import FakeCache, FakeHub

Request = tuple[str, str, dict[str, object] | None]
# Requests that each capability answers with 200, 201 or 202.
REQUESTS: dict[Capability, list[Request]] = {
    "predict": [("POST", "/predict", {"text": ["a"]}), ("POST", "/predict/", {"text": ["a"]})],
    "models": [("GET", "/models", None), ("POST", "/models/stub/predict", {"text": ["a"]})],
    "jobs": [("GET", "/jobs", None), ("POST", "/jobs", {"text": ["a"]}), ("GET", "/v1/batches", None)],
    "console": [
        ("GET", "/admin/audit", None),
        ("GET", "/admin/models", None),
        ("POST", "/admin/links", None),
        ("GET", "/console", None),
        ("GET", "/admin/jobs", None),
    ],
    "dialects": [
        ("GET", "/info", None),
        ("GET", "/v2", None),
        ("POST", "/classify", {"input": "a"}),
        ("GET", "/v1/batches", None),
    ],
}
# What needs more than one of them.
NEED: dict[str, set[str]] = {"/admin/jobs": {"jobs", "console"}, "/v1/batches": {"jobs", "dialects"}}
ALWAYS: list[Request] = [
    ("GET", path, None)
    for path in ("/health", "/livez", "/readyz", "/metrics", "/stats", "/openapi.json", "/docs", "/")
]


@asynccontextmanager
async def serving(fake: FakeRedis, *without: Capability) -> AsyncIterator[httpx.AsyncClient]:
    settings = ApiSettings(admin_keys=keys(ops="all"))
    jobs = JobBackend(JobStore(fake.sync, settings.name, settings.job_ttl_s), JobQueue(fake.sync, settings))
    backends = Backends(FakeHub(), FakeCache(), jobs, ConsoleStores([fake.sync], jobs, settings))
    app = create_app(settings, backends, without=without)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        yield client


async def status(client: httpx.AsyncClient, request: Request) -> int:
    method, path, body = request
    headers = ADMIN if path.startswith("/admin") else {}
    return (await client.request(method, path, json=body, headers=headers)).status_code


@pytest.mark.parametrize("left_out", [None, *CAPABILITIES])
async def test_a_capability_that_is_left_out_leaves_404_and_the_others(
    fake_redis: FakeRedis, left_out: Capability | None
) -> None:
    async with serving(fake_redis, *([left_out] if left_out else [])) as client:
        for request in ALWAYS:
            assert await status(client, request) == 200, request
        for capability, requests in REQUESTS.items():
            for request in requests:
                needed = NEED.get(request[1], {capability})
                expected = {404} if left_out in needed else {200, 201, 202}
                assert await status(client, request) in expected, request


@pytest.mark.parametrize("left_out", CAPABILITIES)
async def test_the_document_has_all_that_it_refers_to(fake_redis: FakeRedis, left_out: Capability) -> None:
    async with serving(fake_redis, left_out) as client:
        document = (await client.get("/openapi.json")).text
    defined = json.loads(document)["components"]["schemas"].keys()
    used = set(re.findall(r"#/components/schemas/([^\"]+)\"", document))
    assert used
    assert used <= defined


async def test_nothing_but_predictions(fake_redis: FakeRedis) -> None:
    """The API of a process that only serves /predict."""
    async with serving(fake_redis, "models", "jobs", "console", "dialects") as client:
        answer = await client.post("/predict", json={"text": ["a"]})
        assert answer.status_code == 200
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert set(paths) == {"/predict", "/health", "/livez", "/readyz", "/metrics", "/stats"}


async def test_without_jobs_a_request_that_prefers_one_is_answered_at_once(fake_redis: FakeRedis) -> None:
    """RFC 7240: a server ignores preferences that it does not support."""
    async with serving(fake_redis, "jobs") as client:
        headers = {"prefer": "respond-async"}
        answer = await client.post("/predict", json={"text": ["a"]}, headers=headers)
        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers
        assert (await client.get("/stats")).json()["jobs"] == []


async def test_without_dialects_their_bodies_are_invalid_for_predict(fake_redis: FakeRedis) -> None:
    async with serving(fake_redis, "dialects") as client:
        answer = await client.post("/predict", json={"inputs": "a"})
        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_request"
    async with serving(fake_redis) as client:
        assert (await client.post("/predict", json={"inputs": "a"})).status_code == 200


async def test_an_admin_key_is_required_where_the_console_is_left_out(fake_redis: FakeRedis) -> None:
    """Whether there is a console cannot be found out without a key."""
    async with serving(fake_redis, "console") as client:
        assert (await client.get("/admin/audit")).status_code == 401
        cookie = {"millrace-operator-8000": "x" * 43}
        client.cookies.update(cookie)
        assert (await client.get("/admin/audit")).status_code == 401
