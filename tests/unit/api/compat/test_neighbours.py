"""What is beside the routes of dialects: errors of every status in their forms, slashes, names and hints."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from api.compat.dialect import ErrorText
from api.compat.fms import DetectorError
from api.compat.openai_error import OpenAIError
from api.compat.tei import TeiError
from api.dialect_names import DIALECTS
from batcher.core.snapshot import NO_SNAPSHOT
from model_store.windows import Windows
from tests.unit.api.service import Start
from tests.unit.fakes import MODEL, RUNNING, FakeHub, prediction

KEY = "k" * 43
FORMS: dict[str, Any] = {
    "/v2/nothing": ErrorText,
    "/v2/models/stub/infer": ErrorText,
    "/v2/repository/index": ErrorText,
    "/rerank": TeiError,
    "/embed": TeiError,
    "/score": OpenAIError,
    "/v1/nothing": OpenAIError,
    "/v1/files": OpenAIError,
    "/v1/files/file-1": OpenAIError,
    "/v1/batches": OpenAIError,
    "/v1/batches/batch_1": OpenAIError,
    "/v1/moderations": OpenAIError,
    "/v1/models": OpenAIError,
    "/v1/models/other": OpenAIError,
    "/v1/models/stub:predict": ErrorText,
    "/classify": OpenAIError,
    "/api/v1/text/nothing": DetectorError,
    "/api/v1/text/contents": DetectorError,
}
paths = pytest.mark.parametrize(("path", "form"), FORMS.items(), ids=FORMS)


@paths
async def test_an_error_beside_a_route_had_no_form_that_its_clients_read(
    start: Start, path: str, form: Any
) -> None:
    service = await start(compat=",".join(DIALECTS))
    seen = set()
    for method in ("GET", "POST", "PUT", "DELETE"):
        for headers in ({}, {"content-type": "text/plain"}, {"host": "elsewhere.example"}):
            answer = await service.client.request(method, path, headers=headers, content=b"{" * 5)
            if answer.status_code >= 400:
                seen.add(answer.status_code)
                form.model_validate(answer.json(), strict=True)
    assert 403 in seen
    assert seen & {404, 405}, seen


@paths
async def test_a_missing_key_and_a_rate_limit_had_no_form_that_its_clients_read(
    start: Start, path: str, form: Any
) -> None:
    keyed = await start(api_keys=f"web:{sha256(KEY.encode()).hexdigest()}")
    answer = await keyed.client.get(path)
    assert answer.status_code == 401
    form.model_validate(answer.json(), strict=True)
    limited = await start(rate_limit="1/minute")
    found = [await limited.client.get(path) for _ in range(2)][1]
    assert found.status_code == 429
    assert int(found.headers["retry-after"]) >= 1
    form.model_validate(found.json(), strict=True)


async def test_an_error_keeps_its_usual_fields(start: Start) -> None:
    service = await start()
    answer = await service.client.get("/v1/nothing")
    assert {"detail", "code", "request_id", "error"} == set(answer.json())
    assert set((await service.client.get("/nothing")).json()) == {"detail", "code", "request_id"}
    without = await start(compat="")
    assert set((await without.client.get("/v1/nothing")).json()) == {"detail", "code", "request_id"}


async def test_a_slash_at_the_end_became_part_of_a_name(start: Start) -> None:
    service = await start(compat=",".join(DIALECTS))
    for path in ("/v2", "/v2/models/stub", "/v1/models", "/info", "/v2/health/live"):
        found, slash = [await service.client.get(one) for one in (path, f"{path}/")]
        assert (slash.status_code, slash.json()) == (found.status_code, found.json()) == (200, found.json())
    for path, body in (("/models/stub", {"inputs": "a"}), ("/classify", {"input": "a"})):
        assert (await service.client.post(f"{path}/", json=body)).status_code == 200


async def test_a_slash_at_the_end_made_another_method_an_unknown_route(start: Start) -> None:
    service = await start(compat=",".join(DIALECTS))
    for path in ("/v2", "/v2/models/m", "/v2/models/m/infer", "/v1/models/m", "/classify", "/info"):
        found, slash = [await service.client.put(one) for one in (path, f"{path}/")]
        assert (slash.status_code, slash.headers["allow"]) == (405, found.headers["allow"]), path
        assert slash.json() | {"request_id": ""} == found.json() | {"request_id": ""}


async def test_jobs_below_a_model_were_taken_for_a_model(start: Start) -> None:
    for names in ("", "*"):
        service = await start(compat_models=names)
        answer = await service.client.post("/models/stub/jobs", json={"inputs": "a"})
        assert answer.status_code == 404
        assert "did you mean /jobs?model=stub?" in answer.text
        assert (await service.client.get("/v2/models/stub/nothing")).status_code == 404
        assert service.hub.asked == []


async def test_a_name_with_a_line_feed_is_none_in_any_form(start: Start) -> None:
    """The native route does not match it, and then that of Hugging Face did."""
    service = await start(compat="huggingface")
    answer = await service.client.post("/models/a%0A/predict", json={"text": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_model_whose_name_has_a_slash(start: Start) -> None:
    service = await start(compat_models="org/name")
    assert (await service.client.get("/v2/models/org/name")).json()["name"] == "org/name"
    assert (await service.client.get("/v2/models/org/name/ready")).json()["ready"] is True
    assert (await service.client.get("/v1/models/org/name")).json()["id"] == "org/name"
    body = {"instances": ["a"]}
    assert (await service.client.post("/v1/models/org/name:predict", json=body)).status_code == 200
    assert (await service.client.post("/models/org/name", json={"inputs": "a"})).status_code == 200


async def test_the_detector_that_the_orchestrator_names_was_not_looked_at(start: Start) -> None:
    service = await start()
    body = {"contents": ["a"]}
    for detector, status in (("stub", 200), ("other", 404)):
        answer = await service.client.post(
            "/api/v1/text/contents", json=body, headers={"detector-id": detector}
        )
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/model", "/v1/models"),
        ("/v1/clasify", "/v1/classify"),
        ("/health/", "/health"),
        ("/infos", "/info"),
        ("/v2/models", ""),
    ],
)
async def test_a_hint_named_another_route(start: Start, path: str, hint: str) -> None:
    answer = await (await start()).client.get(path)
    assert answer.status_code == 404
    said = f"did you mean {hint}? /docs" if hint else "no such route; /docs"
    assert said in answer.json()["detail"]


async def test_one_object_serves_clients_of_openai_vllm_and_kserve(start: Start) -> None:
    service = await start()
    card = (await service.client.get("/v1/models/stub")).json()
    assert card == {
        "id": "stub",
        "object": "model",
        "created": 0,
        "owned_by": "millrace",
        "root": "stub@a1b2c3d4e5f6",
        "max_model_len": 512,
        "name": "stub",
        "ready": True,
    }
    listed = (await service.client.get("/v1/models")).json()
    assert listed == {"object": "list", "data": [card], "models": ["stub"]}
    for compat in ("kserve", "openai", "vllm"):
        alone = await start(compat=compat)
        assert (await alone.client.get("/v1/models/stub")).json() == card
        missing = await alone.client.get("/v1/models/other")
        assert missing.status_code == 404
        (ErrorText if compat == "kserve" else OpenAIError).model_validate(missing.json())


async def test_without_workers_every_health_call_said_healthy(start: Start) -> None:
    for hub, status in ((FakeHub(), 200), (FakeHub(snapshot=NO_SNAPSHOT), 503)):
        service = await start(hub)
        for path in ("/health", "/ping", "/", "/v2/health/ready", "/models/stub/health"):
            for method in ("GET", "HEAD"):
                answer = await service.client.request(method, path)
                assert answer.status_code == status, (path, answer.text)
        body = (await service.client.get("/health")).json()
        assert status == 200 or (body["error"], body["error_type"]) == ("no worker is running", "Unhealthy")
        assert (await service.client.get("/v2/health/live")).status_code == 200
        assert (await service.client.get("/livez")).status_code == 200
        service.lifecycle.draining = True  # requests are answered until the port closes
        assert (await service.client.get("/health")).status_code == status
        own = await start(hub, compat="oip,fms")
        assert (await own.client.get("/health")).json() == {"status": "healthy"}


async def test_the_page_is_for_browsers_and_liveness_for_kserve(start: Start) -> None:
    service = await start()
    assert (await service.client.get("/")).json() == {"status": "alive"}
    page = await service.client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    alone = await start(FakeHub(snapshot=NO_SNAPSHOT), compat="kserve")
    assert (await alone.client.get("/")).json() == {"status": "alive"}
    neither = await start(compat="oip")
    assert (await neither.client.get("/")).headers["content-type"].startswith("text/html")


async def test_the_times_of_text_embeddings_inference_were_missing_at_its_own_route(start: Start) -> None:
    service = await start()
    for path in ("/", "/predict"):
        answer = await service.client.post(path, json={"inputs": "a"})
        for name in ("total", "queue", "inference", "tokenization", "compute"):
            assert int(answer.headers[f"x-{name}-time"]) >= 0


async def test_a_client_that_obeyed_the_advertised_length_was_refused(start: Start) -> None:
    """The default model reads longer texts in windows, which share tokens that count for each."""
    windows = Windows(tokens=126, overlap=31, join="mean", most=64)
    model = replace(MODEL, most_tokens=windows.most_tokens)
    hub = FakeHub(
        snapshot=replace(RUNNING, model=model), answer=lambda text: prediction(text)._replace(tokens=8064)
    )
    service = await start(hub)
    longest = (await service.client.get("/v1/models/stub")).json()["max_model_len"]
    assert longest == (await service.client.get("/info")).json()["max_input_length"] == 5985
    for most, status in ((longest, 200), (longest - 1, 400)):
        body = {"input": "a", "truncate_prompt_tokens": most}
        assert (await service.client.post("/classify", json=body)).status_code == status


async def test_a_route_was_said_to_take_get_because_its_path_may_be_a_name(start: Start) -> None:
    service = await start()
    for path in ("/v2/models/stub/infer", "/v2/models/stub/versions/1/infer"):
        answer = await service.client.get(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        ErrorText.model_validate(answer.json())
    for path in ("/models/stub/health", "/models/stub/info"):
        assert (await service.client.put(path)).headers["allow"] == "GET, HEAD"
    generate = await service.client.post("/v2/models/stub/generate", json={"text_input": "a"})
    assert (generate.status_code, generate.json()["error"].partition(";")[0]) == (
        404,
        "/v2/models/stub/generate is not offered",
    )
