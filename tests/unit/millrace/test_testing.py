"""`millrace.testing`: a service for the tests of others, as the documentation shows it."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from millrace_client import AsyncClient, TextError
from starlette.testclient import TestClient

from millrace.testing import fake_app


def happy(text: str) -> dict[str, float]:
    if text == "broken":
        raise ValueError("as a model may")
    score = 0.9 if "love" in text else 0.1
    return {"NEGATIVE": 1 - score, "POSITIVE": score}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_with_the_test_client_of_starlette() -> None:
    for client in (TestClient(fake_app(happy)), TestClient(fake_app(happy), base_url="http://localhost")):
        answer = client.post("/predict", json={"text": ["I love you.", "I hate you."]})
        first, second = answer.json()["predictions"]
        assert (first[1]["score"], second[1]["score"]) == (0.9, 0.1)
        assert client.post("/predict", json={"text": ["I love you."]}).headers["x-cache"] == "HIT"
        assert client.get("/readyz").json()["model"].startswith("fake@")
        assert client.get("/models").json()["models"][0]["labels"] == ["NEGATIVE", "POSITIVE"]
        assert (
            client.post("/classify", json={"input": "I love you."}).json()["data"][0]["label"] == "POSITIVE"
        )
        assert client.post("/jobs", json={"text": ["a"]}).status_code == 404
        assert client.get("/stats").status_code == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_with_its_lifespan_too() -> None:
    with TestClient(fake_app(happy)) as client:
        assert client.get("/livez").json() == {"status": "live"}
        assert client.post("/predict", json={"text": ["a"]}).status_code == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_worker_was_looked_for_at_every_request_although_one_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []
    monkeypatch.setattr("millrace.testing._Hub.look", looks.append)
    client = TestClient(fake_app(happy))
    assert client.post("/predict", json={"text": ["a"]}).status_code == 200
    assert looks == []


async def test_with_httpx_and_the_client() -> None:
    app = fake_app(happy, model="moods", max_texts=2)
    async with AsyncClient("http://moods", transport=httpx.ASGITransport(app)) as client:
        found = [one async for one in client.classify(["I love you.", "broken", "x"], errors="return")]
        assert (await client.models())[0].name == "moods"
    assert isinstance(found[1], TextError)
    assert found[1].code == "inference_failed"
    assert (found[0].label, found[0].model) == ("POSITIVE", "moods")  # type: ignore[union-attr]


async def test_limits_and_keys_are_those_of_the_service() -> None:
    keys = f"web:{hashlib.sha256(b'k' * 43).hexdigest()}"
    transport = httpx.ASGITransport(fake_app(api_keys=keys, max_text_chars=5))
    async with httpx.AsyncClient(transport=transport, base_url="http://any.example") as http:
        refused = await http.post("/predict", json={"text": ["a"]})
        assert refused.status_code == 401
        headers = {"authorization": f"Bearer {'k' * 43}"}
        long = await http.post("/predict", json={"text": ["too long"]}, headers=headers)
        assert (long.status_code, long.json()["code"]) == (413, "text_too_long")
