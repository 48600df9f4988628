"""What SageMaker and Vertex AI do to a container: they wait for a probe, then post with their own headers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.compat.service import NO_WORKER, Service


def by_score(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(pairs, key=lambda pair: pair["score"], reverse=True)


class Platform:
    """Sends only the headers that SageMaker's router lets through: no key and no preference."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def ping(self) -> int:
        return self.service.http.get("/ping").status_code

    def invoke(self, body: object, content_type: str = "application/json") -> httpx.Response:
        headers = {
            "Content-Type": content_type,
            "Accept": "*/*",
            "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
            "User-Agent": "AHC/2.0",
        }
        request = self.service.http.build_request("POST", "/invocations", json=body, headers=headers)
        return self.service.http.send(request)


@pytest.fixture
def sagemaker(service: Service) -> Platform:
    return Platform(service)


def test_sagemaker_waits_for_the_probe_and_invokes(sagemaker: Platform) -> None:
    assert sagemaker.ping() == 200
    texts = ["a good day", "a bad day"]
    expected = list(map(by_score, sagemaker.service.predict(*texts)))
    assert sagemaker.invoke({"inputs": texts}).json() == expected
    assert sagemaker.invoke({"inputs": texts[0]}).json() == expected[0]
    best = sagemaker.invoke({"inputs": texts[0], "parameters": {"top_k": 1}})
    assert best.json() == expected[0][:1]
    assert best.headers["x-tokens"] == "5"
    assert sagemaker.invoke({"text": texts}).json()["predictions"] == sagemaker.service.predict(*texts)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, 'exactly one of the fields "inputs" and "text" is needed'),
        ({"inputs": "a", "text": ["a"]}, 'the fields "inputs" and "text" are both given: send one of them'),
        ({"text": ["a", 7]}, "text 1: must be a string"),
        ({"inputs": {"text": "a", "text_pair": "b"}}, "inputs: must be a string or a list of strings"),
    ],
)
def test_sagemaker_gets_a_sentence_for_what_is_wrong(sagemaker: Platform, body: object, said: str) -> None:
    answer = sagemaker.invoke(body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)


def test_sagemaker_gets_a_server_error_that_it_retries(sagemaker: Platform) -> None:
    assert sagemaker.invoke({"inputs": "a"}, "text/csv").status_code == 415
    with sagemaker.service.refusing(NO_WORKER):
        answer = sagemaker.invoke({"inputs": "never seen by this endpoint"})
    assert (answer.status_code, answer.json()) == (503, {"error": "no worker is running"})


def test_vertex_answers_instances_in_their_order(service: Service) -> None:
    texts = ["one", "two", "three", "four"]
    instances = [texts[0], {"text": texts[1]}, {"inputs": texts[2]}, {"content": texts[3]}]
    answer = service.http.post("/vertex/predict", json={"instances": instances, "parameters": {"top_k": 1}})
    expected = [[max(pairs, key=lambda pair: pair["score"])] for pairs in service.predict(*texts)]
    assert answer.json() == {"predictions": expected}
    assert service.http.get("/vertex/health").status_code == 200


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        ({"txt": "a"}, "text 0: an object must have one of the keys text, inputs, content"),
        ({"text": "a", "inputs": "b"}, "text 0: an object must have one of the keys text, inputs, content"),
        ({"inputs": "a", "parameters": {}}, "parameters must be beside instances, not in one of them"),
        ({"inputs": ["a", "b"]}, "text 0: must be a string, not a list"),
    ],
)
def test_vertex_gets_a_sentence_for_what_is_wrong(service: Service, instance: object, said: str) -> None:
    answer = service.http.post("/vertex/predict", json={"instances": [instance]})
    assert (answer.status_code, answer.json()) == (422, {"error": said})


def test_other_paths_answer_as_predict_and_health_do(service: Service) -> None:
    expected = service.http.post("/predict", json={"text": ["a"]}).json()
    for path in ("/bulk-predict", "/project/bulk-predict", "/project-predict"):
        answer = service.http.post(f"{path}?order=id", content=b'{"text": ["a"]}')
        assert answer.json() == expected
        refused = service.http.post(path, json={"text": "a"})
        assert refused.json()["detail"][0]["msg"] == "must be a list of strings"
        wrong = service.http.get(path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert service.http.get("/project/health").json() == {"status": "healthy"}
    assert service.http.head("/project/health").status_code == 200
