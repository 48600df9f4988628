"""Parameters of queries that a route does not have: refused, or named in X-Ignored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.compat.fields import places
from api.dialect_names import DIALECTS
from api.settings import ApiSettings
from tests.conftest import FakeRedis
from tests.unit.api.compat.test_fields import BODIES, model_of
from tests.unit.api.jobs.jobs_api import JobsApi, serving
from tests.unit.api.service import Service, Start, assert_problem


@pytest.fixture
async def api(fake_redis: FakeRedis) -> AsyncIterator[JobsApi]:
    async with serving(fake_redis, ApiSettings()) as made:
        yield made


async def with_dialects(start: Start) -> Service:
    return await start(compat=",".join(DIALECTS), moderation_labels="NEGATIVE=hate")


@pytest.mark.parametrize("path", BODIES)
async def test_a_parameter_in_the_query_of_a_dialect_was_ignored_silently(start: Start, path: str) -> None:
    service = await with_dialects(start)
    answer = await service.client.post(f"{path}?api-version=1&a%20b", json=BODIES[path])
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored"] == "?api-version, ?a%20b"
    service.hub.asked.clear()
    for name in ("model", "order", "top_k", "truncate", "threshold", "timeout"):
        answer = await service.client.post(f"{path}?{name}=1", json=BODIES[path])
        ignored = answer.headers.get("x-ignored") == f"?{name}"
        assert ignored == (answer.status_code == 200), (name, answer.text)
        assert ignored or (answer.status_code in (400, 422) and name in answer.text)
        assert not ignored or name not in ("model", "order")


@pytest.mark.parametrize("path", BODIES)
async def test_what_a_body_may_have_is_refused_in_the_query(start: Start, path: str) -> None:
    """A threshold of a detector in the query had no effect: it was 0.5."""
    service = await with_dialects(start)
    for name, _ in places(model_of(path)):
        answer = await service.client.post(f"{path}?{name}=x", json=BODIES[path])
        assert answer.status_code in (400, 422), (name, answer.text)
        assert f'unknown parameter \\"{name}\\" in the query' in answer.text
    assert service.hub.asked == []


async def test_the_place_of_a_field_is_named(service: Service) -> None:
    said = await service.client.post("/api/v1/text/contents?threshold=0.9", json={"contents": ["a"]})
    assert "send it in the body, as detector_params.threshold" in said.text


async def test_predict_names_other_parameters_and_refuses_a_model(service: Service) -> None:
    """`POST /predict?model=topics` was answered by the first model."""
    answer = await service.client.post("/predict?ordr=score&order=id", json={"text": ["a"]})
    assert (answer.status_code, answer.headers["x-ignored"]) == (200, "?ordr")
    refused = await service.client.post("/predict?model=topics", json={"text": ["b"]})
    detail: Any = assert_problem(refused, 422, "invalid_request")["detail"]
    assert detail[0]["loc"] == ["query", "model"]
    assert "/models/{name}/predict" in detail[0]["msg"]
    assert service.hub.asked == [["a"]]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/jobs?keep_inputs=true", "did you mean keep_input?"),
        ("POST", "/jobs?colum=review", "did you mean column?"),
        ("GET", "/jobs?state=failed", "did you mean status?"),
        ("GET", "/jobs/JOB?waits=3", "did you mean wait?"),
        ("GET", "/jobs/JOB/predictions?start=5", "known are offset, limit"),
        ("DELETE", "/jobs/JOB?force=true", "this route has none"),
        ("GET", "/v1/batches?befor=x", "known are limit, after"),
        ("POST", "/v1/batches?expires=1", "this route has none"),
        ("GET", "/v1/files/file-JOB?x", "this route has none"),
    ],
)
async def test_a_mistyped_parameter_of_a_job_had_no_effect(
    api: JobsApi, method: str, path: str, said: str
) -> None:
    """With `keep_inputs=true`, the texts were gone when the job had ended."""
    job = await api.new("a")
    answer = await api.client.request(method, path.replace("JOB", job), json={"text": ["a"]})
    problem: Any = assert_problem(answer, 422, "invalid_request")
    assert said in problem["detail"][0]["msg"]
    assert ("error" in problem) == path.startswith("/v1/")
    assert len((await api.get("")).json()["jobs"]) == 1


async def test_an_unknown_field_of_an_upload_had_no_effect(api: JobsApi) -> None:
    files = {"file": ("in.jsonl", b"{}")}
    data = {"purpose": "batch", "expires_after": "3600"}
    problem: Any = assert_problem(
        await api.client.post("/v1/files", data=data, files=files), 422, "invalid_request"
    )
    assert 'unknown field "expires_after"' in problem["detail"][0]["msg"]
    assert api.held() == []
