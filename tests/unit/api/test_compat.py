"""Dialects of other services: the same doors as /predict, with the errors of each dialect."""

from __future__ import annotations

import json
import logging
from hashlib import sha256

import httpx
import pytest

from api.compat import DEFAULTS, DIALECTS, parse_categories, parse_dialects
from api.compat.reading import MOST_VALUES
from api.compat.routes import CLASSES
from api.settings import ApiSettings
from batcher.core.snapshot import NO_SNAPSHOT
from tests.unit.api.pretended import Service, Start
from tests.unit.pretended import FakeHub, prediction

# A request of each dialect for the text "a".
REQUESTS = {
    "/": {"inputs": "a"},
    "/models/stub": {"inputs": "a"},
    "/v2/models/stub/infer": {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
    "/v1/models/stub:predict": {"instances": ["a"]},
    "/classify": {"input": "a"},
    "/v1/classify": {"input": "a"},
    "/v1/moderations": {"input": "a"},
    "/api/v1/text/contents": {"contents": ["a"]},
}
KEY = "k" * 43
KEYED = {"api_keys": f"web:{sha256(KEY.encode()).hexdigest()}", "moderation_labels": "NEGATIVE=hate"}


def in_its_shape(answer: httpx.Response, status: int) -> bool:
    """An error that is not in the form of /predict."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    return "detail" not in answer.json() and ("error" in answer.json() or "message" in answer.json())


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_key_is_needed(start: Start, path: str) -> None:
    """Also for POST /, although GET / is the page."""
    service = await start(**KEYED)
    assert in_its_shape(await service.client.post(path, json=REQUESTS[path]), 401)
    headers = {"authorization": f"Bearer {KEY}"}
    answer = await service.client.post(path, json=REQUESTS[path], headers=headers)
    assert answer.status_code == 200, answer.text
    assert service.hub.asked == [["a"]]


async def test_only_probes_need_no_key(start: Start) -> None:
    service = await start(**KEYED)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert (await service.client.get(path)).status_code == 200
    for path in ("/v2/models/stub", "/v2/models/stub/ready", "/v1/models", "/v1/models/stub", "/info"):
        assert in_its_shape(await service.client.get(path), 401)
    assert (await service.client.post("/predict", json={"inputs": "a"})).status_code == 401


@pytest.mark.parametrize("path", REQUESTS)
async def test_hosts_sites_and_rates_are_checked(start: Start, path: str) -> None:
    service = await start(rate_limit="1/minute", moderation_labels="NEGATIVE=hate")
    elsewhere = {"host": "elsewhere.example"}
    assert in_its_shape(await service.client.post(path, json=REQUESTS[path], headers=elsewhere), 403)
    site = {"origin": "https://elsewhere.example"}
    assert in_its_shape(await service.client.post(path, json=REQUESTS[path], headers=site), 403)
    assert (await service.client.post(path, json=REQUESTS[path])).status_code == 200
    limited = await service.client.post(path, json=REQUESTS[path])
    assert in_its_shape(limited, 429)
    assert int(limited.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", REQUESTS)
async def test_large_and_compressed_bodies_are_refused(start: Start, path: str) -> None:
    service = await start(max_body_bytes=200_000)
    many = b'{"a":[' + b"{}," * MOST_VALUES + b"{}]}" + b" " * 70_000
    for content, headers, status in (
        (b" " * 200_001, {}, 413),
        (many, {}, 413),
        (b"{}", {"content-encoding": "br"}, 415),
        (b"{}", {"content-type": "text/plain"}, 415),
    ):
        assert in_its_shape(await service.client.post(path, content=content, headers=headers), status)


async def test_punctuation_in_a_text_is_no_value(start: Start) -> None:
    service = await start(max_text_chars=500_000)
    text = '[{",\\"' * 20_000
    answer = await service.client.post("/", content=json.dumps({"inputs": text}))
    assert answer.status_code == 200, answer.text
    assert service.hub.asked == [[text]]


async def test_an_unexpected_error_says_nothing_but_the_request_id(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(FakeHub(refusal=RuntimeError("secret")))
    with caplog.at_level(logging.ERROR):
        answer = await service.client.post("/", json={"inputs": "a"})
    assert in_its_shape(answer, 500)
    assert "secret" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == answer.headers["x-request-id"]


async def test_budgets_and_traces_reach_the_queue(service: Service) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    await service.client.post("/", json={"inputs": "a"}, headers={"prefer": "wait=3", "traceparent": trace})
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["b"]}
    body = {"inputs": [tensor], "parameters": {"timeout": 2_000_000}}
    await service.client.post("/v2/models/stub/infer", json=body)
    assert service.hub.budgets == [pytest.approx(3, abs=0.5), pytest.approx(2, abs=0.5)]
    assert service.hub.traces[0] == trace


async def test_clients_are_kept_apart_where_they_are_for_predict(start: Start) -> None:
    service = await start(FakeHub(tenant="key:web"), separate_clients=True, **KEYED)
    headers = {"authorization": f"Bearer {KEY}"}
    answer = await service.client.post("/classify", json={"input": "a"}, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_tokens_are_known_for_cached_texts_too(start: Start) -> None:
    service = await start(FakeHub(answer=lambda text: prediction(text, truncated=True)))
    for cache in ("MISS", "HIT"):
        answer = await service.client.post("/", json={"inputs": ["a", "b"]})
        assert answer.headers["x-cache"] == cache
        assert (answer.headers["x-tokens"], answer.headers["x-truncated"]) == ("6", "2")


async def test_a_process_that_drains_closes_connections(service: Service) -> None:
    service.lifecycle.draining = True
    answer = await service.client.post("/", json={"inputs": "a"})
    assert answer.headers["connection"] == "close"
    assert in_its_shape(await service.client.get("/v2/health/ready"), 503)
    assert (await service.client.get("/v2/health/live")).json() == {"live": True}


async def test_before_the_first_worker(start: Start) -> None:
    service = await start(FakeHub(snapshot=NO_SNAPSHOT))
    for path in ("/info", "/v1/models", "/v1/models/any", "/v2/models/any", "/v2/models/any/ready"):
        assert in_its_shape(await service.client.get(path), 503)


async def test_every_name_is_accepted_if_the_setting_says_so(start: Start) -> None:
    service = await start(compat_models="*")
    answer = await service.client.post("/models/any/name", json={"inputs": "a"})
    assert answer.status_code == 200
    assert answer.headers["x-model"].startswith("stub@")


def test_settings_name_dialects_and_categories() -> None:
    assert {*CLASSES, "project"} == set(DIALECTS)
    assert parse_dialects(" TEI, oip,tei") == ("tei", "oip")
    assert ApiSettings().compat == ",".join(DEFAULTS)
    assert parse_categories("a=hate, b = c = self-harm") == {"a": "hate", "b = c": "self-harm"}
    with pytest.raises(ValueError, match="'tie' is not a dialect"):
        ApiSettings(compat="tie")
    with pytest.raises(ValueError, match="labels with their categories"):
        ApiSettings(moderation_labels="hate")
