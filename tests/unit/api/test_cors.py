"""Pages of other origins: refused unless a setting allows them, and then able to read the answers."""

from __future__ import annotations

from hashlib import sha256

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from tests.unit.api.service import Service, Start, assert_problem

APP = "https://app.example"
BROWSER = {"origin": APP, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
PREFLIGHT = BROWSER | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}
KEY = "k" * 43
KEYS = f"web:{sha256(KEY.encode()).hexdigest()}"
ROUTES = {"/predict": {"text": ["a"]}, "/classify": {"input": "a"}, "/jobs/x": {}, "/nothing": {}}


async def test_by_default_no_page_of_another_origin_gets_in(service: Service) -> None:
    for path in ROUTES:
        answer = await service.client.options(path, headers=PREFLIGHT)
        assert answer.status_code in (403, 405)
        assert "access-control-allow-origin" not in answer.headers
    answer = await service.client.post("/predict", json={"text": ["a"]}, headers=BROWSER)
    assert_problem(answer, 403, "cross_site")


@pytest.mark.parametrize("allowed", [f"http://localhost:3000, {APP}", "*"])
@pytest.mark.parametrize("path", ROUTES)
async def test_an_allowed_origin_asks_first_and_reads_every_answer(
    start: Start, path: str, allowed: str
) -> None:
    service = await start(allowed_origins=allowed, api_keys=KEYS)
    asked = await service.client.options(path, headers=PREFLIGHT)
    assert asked.status_code == 200, asked.text
    said = asked.headers
    assert said["access-control-allow-origin"] in (APP, "*")
    assert "POST" in said["access-control-allow-methods"]
    assert said["access-control-allow-headers"] == "authorization, content-type"
    assert "access-control-allow-credentials" not in said
    assert len(said["x-request-id"]) == 32
    statuses = []
    for headers in ({}, {"authorization": f"Bearer {KEY}"}):
        answer = await service.client.post(path, json=ROUTES[path], headers=BROWSER | headers)
        assert answer.headers["access-control-allow-origin"] in (APP, "*")
        assert answer.headers["access-control-expose-headers"] == "*"
        statuses.append(answer.status_code)
    assert statuses == [401, {"/jobs/x": 405, "/nothing": 404}.get(path, 200)]


async def test_another_origin_and_the_console_stay_closed(start: Start) -> None:
    service = await start(allowed_origins=APP)
    other = {**PREFLIGHT, "origin": "https://app.example.evil"}
    for headers in (other, {**other, "origin": "null"}, {**other, "origin": "http://app.example"}):
        asked = await service.client.options("/predict", headers=headers)
        assert "access-control-allow-origin" not in asked.headers
        answer = await service.client.post("/predict", json={"text": ["a"]}, headers=headers)
        assert_problem(answer, 403, "cross_site")
    for method in ("OPTIONS", "POST", "GET"):
        console = await service.client.request(method, "/admin/session", headers=PREFLIGHT)
        assert_problem(console, 403, "cross_site")
    assert service.hub.asked == []


@pytest.mark.parametrize(
    "origins", ["app.example", "https://app.example/x", "ftp://app.example", "https://a b"]
)
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(origins: str) -> None:
    with pytest.raises(ValidationError, match="must be origins as browsers send them"):
        ApiSettings(allowed_origins=origins)
