"""Every dialect in raw HTTP: the same scores as /predict, and its own shape for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.compat.service import LONG, MAX_TEXTS, NO_WORKER, SHED, Service

Scores = dict[str, float]


@dataclass(frozen=True)
class Shape:
    """How a dialect asks and answers. `bad` are bodies of wrong types, and what is said of each."""

    path: str
    ask: Callable[[Sequence[str]], dict[str, Any]]
    scores: Callable[[Any], list[Scores]]
    error: Callable[[Any], str]
    statuses: dict[int, int] = field(default_factory=dict)
    bad: dict[str, Any] = field(default_factory=dict)


def by_label(pairs: list[dict[str, Any]]) -> Scores:
    return {pair["label"]: pair["score"] for pair in pairs}


def nested(body: Any) -> list[Scores]:
    return [by_label(pairs) for pairs in body]


def tensor(
    data: Sequence[Any], shape: Sequence[int] | None = None, datatype: str = "BYTES", **more: Any
) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"inputs": [{"name": "t", "shape": shape, "datatype": datatype, "data": list(data)}], **more}


def tensor_scores(body: Any) -> list[Scores]:
    found = {output["name"]: output for output in body["outputs"]}
    rows, columns = found["scores"]["shape"]
    data = found["scores"]["data"]
    assert columns == 2
    return [dict(zip(("NEGATIVE", "POSITIVE"), data[2 * n : 2 * n + 2], strict=True)) for n in range(rows)]


def error_field(body: Any) -> str:
    assert set(body) == {"error"}
    return str(body["error"])


def tei_error(body: Any) -> str:
    assert set(body) == {"error", "error_type"}
    return str(body["error"])


def openai_error(body: Any) -> str:
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def classified(body: Any) -> list[Scores]:
    found = sorted(body["data"], key=lambda part: part["index"])
    assert [part["num_classes"] for part in found] == [2] * len(found)
    for part in found:
        assert part["label"] == ("NEGATIVE", "POSITIVE")[part["probs"].index(max(part["probs"]))]
    return [dict(zip(("NEGATIVE", "POSITIVE"), part["probs"], strict=True)) for part in found]


def detections(body: Any) -> list[Scores]:
    return [{part["detection_type"]: part["score"] for part in parts} for parts in body]


BAD_REQUEST = {422: 400}
SHAPES = {
    "huggingface": Shape("/", lambda texts: {"inputs": texts}, nested, error_field, {}, {"inputs": 7}),
    "huggingface model": Shape(
        "/models/stub", lambda texts: {"inputs": texts, "parameters": {}}, nested, error_field
    ),
    "tei": Shape(
        "/predict",
        lambda texts: {"inputs": [[text] for text in texts]},
        nested,
        tei_error,
        {413: 422},
        {"inputs": 7},
    ),
    "oip": Shape("/v2/models/stub/infer", tensor, tensor_scores, error_field, BAD_REQUEST, {"inputs": []}),
    "oip version": Shape(
        "/v2/models/alias/versions/1/infer", tensor, tensor_scores, error_field, BAD_REQUEST
    ),
    "kserve": Shape(
        "/v1/models/stub:predict",
        lambda texts: {"instances": texts},
        lambda body: list(body["predictions"]),
        error_field,
        BAD_REQUEST,
        {"instances": "x"},
    ),
    "vllm": Shape(
        "/classify", lambda texts: {"input": texts}, classified, openai_error, BAD_REQUEST, {"input": 7}
    ),
    "sglang": Shape(
        "/v1/classify", lambda texts: {"model": "stub", "input": texts}, classified, openai_error, BAD_REQUEST
    ),
    "fms": Shape(
        "/api/v1/text/contents",
        lambda texts: {"contents": texts, "detector_params": {"threshold": 0}},
        detections,
        lambda body: str(body["message"]),
        {},
        {"contents": 7},
    ),
}

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@shapes
@pytest.mark.parametrize("texts", [["one text"], ["one", "two", "one"]], ids=["one", "batch"])
def test_the_scores_are_those_of_predict(service: Service, shape: Shape, texts: list[str]) -> None:
    answer = service.http.post(shape.path, json=shape.ask(texts))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert {"x-request-id", "x-model", "server-timing", "x-cache"} <= set(answer.headers)
    assert "x-truncated" not in answer.headers
    assert shape.scores(answer.json()) == service.scores(*texts)


@shapes
def test_a_text_that_is_cut_is_reported(service: Service, shape: Shape) -> None:
    answer = service.http.post(shape.path, json=shape.ask([LONG, "short"]))
    assert answer.status_code == 200
    assert answer.headers["x-truncated"] == "1"
    assert shape.scores(answer.json()) == service.scores(LONG, "short")


@shapes
def test_limits_are_those_of_predict_in_its_words(service: Service, shape: Shape) -> None:
    for texts in (["x"] * (MAX_TEXTS + 1), ["fine", "y" * 6001]):
        answer = service.http.post(shape.path, json=shape.ask(texts))
        assert answer.status_code == shape.statuses.get(413, 413)
        assert shape.error(answer.json()) == service.sentence({"text": texts})


@shapes
def test_no_texts_and_other_types_are_refused_in_the_words_of_predict(service: Service, shape: Shape) -> None:
    invalid = shape.statuses.get(422, 422)
    answer = service.http.post(shape.path, json=shape.ask([]))
    assert answer.status_code == (400 if shape is SHAPES["tei"] else invalid)
    assert shape.error(answer.json()) == service.sentence({"text": []})
    answer = service.http.post(shape.path, json=shape.ask(["fine", 7]))  # type: ignore[list-item]
    assert answer.status_code == invalid
    assert shape.error(answer.json()).startswith(service.sentence({"text": ["fine", 7]}))
    if shape.bad:
        answer = service.http.post(shape.path, json=shape.bad)
        assert answer.status_code == invalid
        assert shape.error(answer.json())


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"tei"}))
def test_broken_json_is_refused(service: Service, name: str) -> None:
    """A broken body of /predict is not known to be of another dialect."""
    shape = SHAPES[name]
    for content in (b"", b"{", b"[]", b"\xff", b'{"a": "\\ud800"}', b"[" * 5000):
        answer = service.http.post(shape.path, content=content)
        assert answer.status_code == shape.statuses.get(422, 422)
        assert shape.error(answer.json())


@shapes
def test_shed_and_without_a_worker(service: Service, shape: Shape) -> None:
    for refusal, status, retry in ((SHED, 429, "3"), (NO_WORKER, 503, "2")):
        with service.refusing(refusal):
            answer = service.http.post(shape.path, json=shape.ask([f"never seen {status} {shape.path}"]))
            assert answer.status_code == status
            assert answer.headers["retry-after"] == retry
            assert shape.error(answer.json()) == str(refusal)


@shapes
def test_texts_are_shared_with_predict(service: Service, shape: Shape) -> None:
    """One cache: what one dialect asked is known to the others."""
    text = f"asked first by {shape.path}"
    assert service.http.post(shape.path, json=shape.ask([text])).headers["x-cache"] == "MISS"
    assert service.http.post("/predict", json={"text": [text]}).headers["x-cache"] == "HIT"
    assert service.http.post(shape.path, json=shape.ask([text])).headers["x-cache"] == "HIT"


INFER = "/v2/models/stub/infer"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/predict", {"inputs": ["a", "b"]}, "pairs of texts"),
        ("/predict", {"inputs": [["a", "b"]]}, "pairs of texts"),
        ("/tokenize", {"inputs": "a"}, "tokenize is not supported"),
        ("/predict", {"inputs": "a", "raw_scores": True}, "logits are not available"),
        ("/predict", {"inputs": LONG, "truncate": False}, "truncate is false"),
        ("/predict", {"inputs": LONG, "truncation_direction": "left"}, "truncation_direction left"),
        ("/", {"inputs": {"text": "a", "text_pair": "b"}}, "must be a string"),
        ("/", {"inputs": [{"text": "a", "text_pair": "b"}]}, "pairs of texts"),
        ("/", {"inputs": "a", "parameters": {"candidate_labels": ["x"]}}, "zero-shot"),
        (
            "/",
            {"inputs": "a", "parameters": {"function_to_apply": "none"}},
            "of this model are softmax",
        ),
        ("/models/other", {"inputs": "a"}, 'serves the model "stub"'),
        ("/classify", {"input": [1, 2]}, "token ids"),
        ("/classify", {"input": [[1, 2]]}, "token ids"),
        ("/classify", {"messages": []}, "chats are not supported"),
        ("/classify", {"input": "a", "use_activation": False}, "logits are not available"),
        ("/classify", {"input": "four tokens", "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
        ("/v1/classify", {"input": "a", "model": "other"}, 'serves the model "stub"'),
        ("/v1/moderations", {"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "images"),
        (INFER, tensor(["a"], parameters={"sequence_id": 1}), "sequences"),
        (INFER, tensor(["a"], outputs=[{"name": "logits"}]), "scores and label"),
        (INFER, tensor([1, 2], [1, 2], "INT64"), "token ids"),
        (INFER, tensor(["a", "b"], [1, 2]), "pairs of texts"),
        (INFER, tensor(["a", "b"], [3]), "the shape"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    service: Service, path: str, body: dict[str, Any], said: str
) -> None:
    answer = service.http.post(path, json=body)
    assert answer.status_code in (400, 404, 422), answer.text
    assert said in answer.text.replace('\\"', '"')


def test_tei_says_one_text_flat_and_the_most_probable_label_first(service: Service) -> None:
    for inputs in ("one text", ["one text"]):
        answer = service.http.post("/predict", json={"inputs": inputs, "truncate": True, "raw_scores": False})
        first, second = answer.json()
        assert first["score"] > second["score"]
        assert by_label(answer.json()) == service.scores("one text")[0]


def test_tei_answers_a_mixed_list_as_a_batch(service: Service) -> None:
    for inputs in (["one", ["two"]], [["one"], "two"]):
        answer = service.http.post("/predict", json={"inputs": inputs})
        assert nested(answer.json()) == service.scores("one", "two")


def test_tei_headers_count_characters_and_tokens(service: Service) -> None:
    answer = service.http.post("/predict", json={"inputs": [["four"], ["five words are enough here"]]})
    assert answer.headers["x-compute-characters"] == "30"
    assert int(answer.headers["x-compute-tokens"]) == 3 + 7
    for name in ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert int(answer.headers[name]) >= 0


def test_tei_error_types(service: Service) -> None:
    def kind(body: dict[str, Any]) -> str:
        return str(service.http.post("/predict", json=body).json()["error_type"])

    assert kind({"inputs": []}) == "Empty"
    assert kind({"inputs": 7}) == "Validation"
    with service.refusing(SHED):
        assert kind({"inputs": "not seen, shed"}) == "Overloaded"
    with service.refusing(NO_WORKER):
        assert kind({"inputs": "not seen, no worker"}) == "Unhealthy"


def test_tei_info(service: Service) -> None:
    info = service.http.get("/info").json()
    assert info["model_id"] == "stub"
    assert info["model_type"]["classifier"]["id2label"] == {"0": "NEGATIVE", "1": "POSITIVE"}
    assert info["max_input_length"] == 512
    assert info["max_client_batch_size"] == MAX_TEXTS


def test_the_body_of_predict_decides_by_its_key(service: Service) -> None:
    """Also where the text is a key, or mentions one."""
    assert len(service.http.post("/predict", json={"inputs": "text"}).json()) == 2
    assert len(service.http.post("/predict", json={"truncate": True, "inputs": "inputs"}).json()) == 2
    assert service.http.post("/predict", json={"text": ['"inputs"']}).status_code == 200
    refused = service.http.post("/predict", json={"text": ["a"], "inputs": "a"})
    assert refused.status_code == 422
    assert refused.json()["code"] == "invalid_request"


def test_vllm_counts_tokens(service: Service) -> None:
    answer = service.http.post(
        "/classify", json={"input": ["four", LONG], "truncate_prompt_tokens": -1}
    ).json()
    assert answer["usage"]["prompt_tokens"] == 3 + 512
    assert service.http.get("/v1/models").json()["data"][0]["id"] == "stub"


def test_fms_has_only_what_reaches_the_threshold(service: Service) -> None:
    scores = service.scores("one text")[0]
    label = max(scores, key=lambda name: scores[name])
    answer = service.http.post("/api/v1/text/contents", json={"contents": ["one text"]})
    assert answer.json() == [
        [
            {
                "start": 0,
                "end": 8,
                "text": "one text",
                "detection": label,
                "detection_type": label,
                "score": scores[label],
            }
        ]
    ]


def test_kserve_says_whether_the_model_is_ready(service: Service) -> None:
    ready = service.http.get("/v1/models/stub").json()
    assert (ready["name"], ready["ready"]) == ("stub", True)
    assert service.http.get("/v1/models/other").status_code == 404


def test_requests_are_counted_by_route(service: Service) -> None:
    service.http.post("/v2/models/stub/infer", json=tensor(["a"]))
    service.http.post("/models/stub", json={})
    said = service.http.get("/metrics").text
    assert 'millrace_requests_total{route="/v2/models/{model}/infer",status="200"}' in said
    assert 'millrace_requests_total{route="/models/{model}",status="422"}' in said


def test_another_method_is_not_allowed(service: Service) -> None:
    answer = service.http.get("/classify")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
