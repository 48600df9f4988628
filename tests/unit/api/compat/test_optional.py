"""Dialects and paths that are off by default: clouds, and other paths of /predict."""

from __future__ import annotations

import pytest

from api.compat.aliases import HEALTH_PATHS, NAME, PREDICT_PATHS
from api.settings import ApiSettings
from tests.unit.api.service import Start


async def test_the_environment_of_vertex_names_the_routes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployed model's own paths, or /predict and /health, which keep what they have."""
    own = "/v1/endpoints/7/deployedModels/8"
    monkeypatch.setenv("AIP_HEALTH_ROUTE", own)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", f"{own}:predict")
    service = await start(compat="vertex")
    assert (await service.client.get(own)).json() == {"status": "alive"}
    answer = await service.client.post(f"{own}:predict", json={"instances": ["a"]})
    assert [pair["label"] for pair in answer.json()["predictions"][0]] in (
        ["NEGATIVE", "POSITIVE"],
        ["POSITIVE", "NEGATIVE"],
    )
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    shared = (await start(compat="tei,vertex")).client
    assert (await shared.get("/health")).json() == {"status": "healthy"}
    for body, kind in (
        ({"instances": ["inputs"]}, dict),
        ({"inputs": "instances"}, list),
        ({"text": ["instances"]}, dict),
    ):
        answer = await shared.post("/predict", json=body)
        assert (answer.status_code, type(answer.json())) == (200, kind), answer.text


async def test_clouds_and_aliases_are_off_by_default(start: Start) -> None:
    service = await start()
    for path in ("/invocations", "/vertex/predict", "/bulk-predict", "/project/health"):
        assert (await service.client.get(path)).status_code == 404
    with pytest.raises(ValueError, match="must be a path, such as /v1/predict"):
        ApiSettings(vertex_predict="predict?x")


async def test_aliases_are_answered_and_described_as_what_they_stand_for(start: Start) -> None:
    service = await start(compat=NAME)
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    for copies, original, method in ((PREDICT_PATHS, "/predict", "post"), (HEALTH_PATHS, "/health", "get")):
        for path in copies:
            own = {"operationId": paths[path][method]["operationId"], "tags": [f"compatible: {NAME}"]}
            assert paths[path] == {method: paths[original][method] | own}
            assert (await service.client.request(method, path, json={"text": ["a"]})).status_code == 200
    ids = [one["operationId"] for path in paths.values() for one in path.values()]
    assert len(set(ids)) == len(ids)
