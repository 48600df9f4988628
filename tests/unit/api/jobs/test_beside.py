"""Jobs together with other features: /predict, outages, OpenAPI."""

from __future__ import annotations

import pytest
import redis

from api.jobs.service import JobBackend
from api.parts import Backends, Parts
from api.settings import ApiSettings
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import JobsApi
from tests.unit.api.service import assert_problem
from tests.unit.fakes import FakeCache, FakeHub, hanging


async def test_a_request_that_prefers_it_becomes_a_job(api: JobsApi) -> None:
    headers = {"prefer": "respond-async", "idempotency-key": "k"}
    answer = await api.client.post("/predict", json={"text": ["a", "b"]}, headers=headers)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert api.store.input(job["id"], 0) == ["a", "b"]
    again = await api.client.post("/predict", json={"text": ["a", "b"]}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


async def test_everything_is_503_while_redis_is_away(api: JobsApi, fake_redis: FakeRedis) -> None:
    job_id = await api.new()
    fake_redis.server.connected = False
    for answer in (
        await api.submit("a"),
        await api.get(f"/{job_id}"),
        await api.get(""),
        await api.client.delete(f"/jobs/{job_id}"),
    ):
        assert_problem(answer, 503, "redis_unavailable")
        assert answer.headers["retry-after"] == "1"
    fake_redis.server.connected = True
    assert (await api.get(f"/{job_id}")).status_code == 200


async def test_rq_that_cannot_be_told_is_told_later(api: JobsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(api.queue, "enqueue", away)
    job_id = await api.new()
    assert (await api.get(f"/{job_id}")).json()["status"] == "queued"
    assert api.store.open_ids() == [job_id], "recovery finds it there"


async def test_jobs_stop_without_waiting_for_a_command_that_hangs(fake_redis: FakeRedis) -> None:
    settings = ApiSettings()
    store, queue = JobStore(fake_redis.sync, settings.name, 60), JobQueue(fake_redis.sync, settings)
    service = Parts(settings, Backends(FakeHub(), FakeCache(), JobBackend(store, queue))).jobs
    async with hanging(service.call):
        await service.stop()


async def test_openapi_documents_every_status_of_every_route(api: JobsApi) -> None:
    paths = (await api.client.get("/openapi.json")).json()["paths"]
    documented = {
        f"{method.upper()} {path}": set(facts["responses"])
        for path, methods in paths.items()
        if path.startswith("/jobs")
        for method, facts in methods.items()
    }
    always = {"401", "403", "422", "429", "503"}
    assert documented == {
        "POST /jobs": {"200", "202", "404", "408", "409", "413", "415", "507"} | always,
        "GET /jobs": {"200"} | always,
        "GET /jobs/{job_id}": {"200", "404"} | always,
        "GET /jobs/{job_id}/events": {"200", "204", "404"} | always,
        "GET /jobs/{job_id}/predictions": {"200", "404"} | always,
        "POST /jobs/preview": {"200", "408", "413", "415"} | always,
        "POST /jobs/{job_id}/labelled": {"200", "404", "408", "409", "413", "415"} | always,
        "GET /jobs/{job_id}/texts": {"200", "404"} | always,
        "DELETE /jobs/{job_id}": {"200", "204", "404"} | always,
    }
    bodies = paths["/jobs"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "application/x-ndjson", "text/csv"}
