"""Dialects of other services: the same checks as /predict, with the errors of each dialect."""

from __future__ import annotations

import json
import logging
import tracemalloc
from dataclasses import replace
from hashlib import sha256

import httpx
import pytest

from api.compat.clouds import Invocation
from api.compat.reading import MAX_VALUES, parse
from api.compat.routes import CLASSES
from api.dialect_names import DEFAULTS, DIALECTS, parse_categories, parse_dialects
from api.errors import Problem
from api.settings import ApiSettings
from batcher.core.snapshot import NO_SNAPSHOT
from batcher.errors import BudgetExceeded, MillraceError, NoWorker, Paused, QueueFull
from batcher.messages import fragment
from tests.unit.api.service import Service, Start
from tests.unit.fakes import MODEL, OTHER_REVISION, REVISION, RUNNING, FakeHub, prediction

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


@pytest.mark.parametrize(
    "second", ["text", "texts", "inputs", "input", "instances", "contents", "sentences", "Input", "TEXT"]
)
@pytest.mark.parametrize("path", [*REQUESTS, "/predict", "/invocations", "/vertex/predict", "/v1/decisions"])
async def test_texts_that_are_given_twice_are_refused_and_not_answered_for_one(
    start: Start, path: str, second: str
) -> None:
    questions = [{"type": "predicate", "name": "NEGATIVE"}]
    others = {
        "/predict": {"inputs": "a"},
        "/invocations": {"inputs": "a"},
        "/vertex/predict": {"instances": ["a"]},
        "/v1/decisions": {"questions": questions, "input": "a"},
    }
    service = await start(compat=",".join(DIALECTS), moderation_labels="NEGATIVE=hate")
    body = json.dumps((REQUESTS | others)[path])
    for key, named in ((second, second), (f"\\u{ord(second[0]):04x}{second[1:]}", second)):
        twice = f'{body[:-1]}, "{key}": ["b"]}}'
        answer = await service.client.post(path, content=twice)
        assert answer.status_code in (400, 422), answer.text
        assert named in answer.text, answer.text
    assert service.hub.asked == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", '{"inputs": null, "inputs": "a"}'),
        ("/", '{"inputs": {"a": 1}, "inputs": "a"}'),
        ("/v1/moderations", '{"input": [{"type": "text", "text": "a", "text": "b"}]}'),
        ("/v1/moderations", r'{"input": [{"type": "text", "text": "a", "t\u0065xt": "b"}]}'),
        (
            "/v1/decisions",
            '{"questions": [{"type": "predicate", "name": "NEGATIVE"}],'
            ' "input": [{"role": "user", "content": "a", "content": "b"}]}',
        ),
        (
            "/v2/models/stub/infer",
            '{"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"], "data": ["b"]}]}',
        ),
    ],
)
async def test_a_text_within_a_body_that_is_given_twice_is_refused(
    start: Start, path: str, body: str
) -> None:
    """The last one was answered."""
    service = await start(compat=",".join(DIALECTS), moderation_labels="NEGATIVE=hate")
    answer = await service.client.post(path, content=body)
    assert answer.status_code in (400, 422), answer.text
    assert "is given twice" in answer.text
    assert service.hub.asked == []


async def test_the_words_for_texts_may_stand_in_texts_and_beside_nothing(start: Start) -> None:
    service = await start(compat=",".join(DIALECTS))
    for body in (
        {"inputs": ['{"text": "a"}', '"inputs": "text"']},
        {"inputs": "a", "text": None},
        {"inputs": "a", "others": {"text": "b", "inputs": "c"}},
    ):
        answer = await service.client.post("/", json=body)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_key_is_needed(start: Start, path: str) -> None:
    """Also for POST /, although GET / is the page."""
    service = await start(**KEYED)
    assert in_its_shape(await service.client.post(path, json=REQUESTS[path]), 401)
    headers = {"authorization": f"Bearer {KEY}"}
    answer = await service.client.post(path, json=REQUESTS[path], headers=headers)
    assert answer.status_code == 200, answer.text
    assert service.hub.asked == [["a"]]


async def test_an_empty_list_had_another_status_than_that_of_text_embeddings_inference(start: Start) -> None:
    service = await start()
    for body, status, kind in (({"inputs": []}, 400, "Empty"), ({"inputs": 1}, 422, "Validation")):
        answer = await service.client.post("/predict", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind)


@pytest.mark.parametrize("path", ["/models/stub", "/v2/models/stub", "/v1/models/stub"])
async def test_a_name_that_ends_a_line_was_taken_for_that_of_a_model(start: Start, path: str) -> None:
    service = await start()
    method = "POST" if path in REQUESTS else "GET"
    for end, status in (("", 200), ("/", 200), ("%0A", 404), ("%0A/", 404), ("%0D", 404)):
        answer = await service.client.request(method, path + end, json=REQUESTS.get(path))
        assert answer.status_code == status, (end, answer.text)


async def test_a_tensor_with_its_data_twice_is_refused(start: Start) -> None:
    service = await start()
    given = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    body = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": 5}}]}).encode()
    headers = {"inference-header-content-length": str(len(body))}
    sent = body + b"\x01\x00\x00\x00b"
    answer = await service.client.post("/v2/models/stub/infer", content=sent, headers=headers)
    assert in_its_shape(answer, 400)
    assert "data and binary_data_size" in answer.json()["error"]


async def test_only_probes_need_no_key(start: Start) -> None:
    service = await start(**KEYED)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert (await service.client.get(path)).status_code == 200
    for path in ("/v2/models/stub", "/v2/models/stub/ready", "/v1/models", "/v1/models/stub", "/info"):
        assert in_its_shape(await service.client.get(path), 401)
    assert (await service.client.post("/predict", json={"inputs": "a"})).status_code == 401


async def test_a_probe_with_head_was_asked_for_a_key(start: Start) -> None:
    service = await start(**KEYED, compat="oip,sagemaker,vertex,project")
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/ping", "/vertex/health", "/project/health"):
        answer = await service.client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert (await service.client.head("/v2/models/stub")).status_code == 401


async def test_a_request_with_head_counted_twice(start: Start) -> None:
    service = await start(rate_limit="1/minute")
    assert [(await service.client.head("/v2/models/stub")).status_code for _ in range(2)] == [200, 429]


async def test_routes_without_a_key_answered_under_every_host_name(start: Start) -> None:
    service = await start(compat="oip,sagemaker,vertex")
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/ping", "/vertex/health"):
        answer = await service.client.get(path, headers={"host": "elsewhere.example"})
        assert in_its_shape(answer, 403)
        assert (await service.client.get(path, headers={"host": "10.0.0.1:8000"})).status_code == 200


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
    many = b'{"a":[' + b"{}," * MAX_VALUES + b"{}]}" + b" " * 70_000
    for content, headers, status in (
        (b" " * 200_001, {}, 413),
        (many, {}, 413),
        (b"{}", {"content-encoding": "br"}, 415),
        (b"{}", {"content-type": "text/plain"}, 415),
    ):
        assert in_its_shape(await service.client.post(path, content=content, headers=headers), status)


@pytest.mark.parametrize("body", [b'["' + b'","' * 600_000 + b'"]', b'{"a":' * 400_000, b'""' * 1_000_000])
def test_counting_the_values_of_a_body_takes_little_memory(body: bytes) -> None:
    """2 MB took 118 MiB and 170 ms, before the body was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(Problem):
            parse(body, Invocation)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(body)
    finally:
        tracemalloc.stop()


async def test_punctuation_in_a_text_is_no_value(start: Start) -> None:
    service = await start(max_text_chars=500_000)
    text = '[{",\\"' * 20_000
    answer = await service.client.post("/", content=json.dumps({"inputs": text}))
    assert answer.status_code == 200, answer.text
    assert service.hub.asked == [[text]]


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_text_that_is_read_in_windows_is_not_too_long(start: Start, path: str) -> None:
    """It has more tokens than the model reads at once, and all of them count."""
    hub = FakeHub(answer=lambda text: prediction(text)._replace(tokens=4 * MODEL.max_tokens))
    service = await start(hub, moderation_labels="NEGATIVE=hate", max_text_chars=10_000)
    answer = await service.client.post(path, json=REQUESTS[path])
    assert answer.status_code == 200, answer.text
    assert "x-truncated" not in answer.headers
    assert answer.headers.get("x-tokens", "2048") == "2048"
    assert "x-tokens" in answer.headers or "2048" in answer.text


async def test_no_request_against_truncation_concerns_windows(start: Start) -> None:
    service = await start(FakeHub(answer=lambda text: prediction(text)._replace(tokens=2048)))
    for path, fields in (
        ("/predict", {"inputs": "a", "truncate": False, "truncation_direction": "left"}),
        ("/classify", {"input": "a", "truncate_prompt_tokens": 2048, "truncation_side": "left"}),
    ):
        answer = await service.client.post(path, json=fields)
        assert answer.status_code == 200, answer.text
    cut = await service.client.post("/classify", json={"input": "a", "truncate_prompt_tokens": 511})
    assert in_its_shape(cut, 400)


async def test_a_text_that_may_not_be_cut_is_refused_with_the_tokens_that_its_model_reads(
    start: Start,
) -> None:
    """Those of the model's record, or of the text where another revision answered."""
    for revision, most in ((REVISION, 512), (OTHER_REVISION, 480)):
        found = {
            "a": prediction("a", revision),
            "b": prediction("b", revision, truncated=1)._replace(tokens=480),
        }
        service = await start(FakeHub(answer=found.__getitem__))
        answer = await service.client.post("/predict", json={"inputs": [["a"], ["b"]], "truncate": False})
        assert in_its_shape(answer, 422)
        said = "text 1 is longer than the {most} tokens that the model can read, and truncate is false"
        assert answer.json()["error"] == said.format(most=most)


@pytest.mark.parametrize(
    ("direction", "status"), [("right", 200), ("Right", 200), ("left", 422), ("LEFT", 422), ("up", 422)]
)
async def test_the_case_of_a_direction_does_not_matter(start: Start, direction: str, status: int) -> None:
    service = await start(FakeHub(answer=lambda text: prediction(text, truncated=1)))
    answer = await service.client.post("/predict", json={"inputs": "a", "truncation_direction": direction})
    assert answer.status_code == status, answer.text
    if direction != "up":
        assert ("truncation_direction left is not supported" in answer.text) is (status == 422)


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
    await service.client.post("/v2/models/stub/infer", json=infer("b", timeout=2_000_000))
    assert service.hub.budgets == [pytest.approx(3, abs=0.5), pytest.approx(2, abs=0.5)]
    assert service.hub.traces[0] == trace


def infer(text: str, **parameters: object) -> dict[str, object]:
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": [text]}
    return {"inputs": [tensor], "parameters": parameters}


async def test_a_timeout_of_triton_without_an_end_was_an_error(service: Service) -> None:
    """Triton's clients send 0 for no timeout; an integer of JSON may have thousands of digits."""
    for text, timeout in (("a", 0), ("b", 10**400), ("c", 2**64)):
        answer = await service.client.post("/v2/models/stub/infer", json=infer(text, timeout=timeout))
        assert answer.status_code == 200, answer.text
    assert service.hub.budgets == [pytest.approx(10, abs=0.5), *[pytest.approx(60, abs=0.5)] * 2]
    for timeout in (-1, 0.5, True, "1"):
        answer = await service.client.post("/v2/models/stub/infer", json=infer("d", timeout=timeout))
        assert in_its_shape(answer, 400)


async def test_scores_of_many_labels_seemed_to_be_sigmoid(start: Start) -> None:
    """Each score is rounded to seven digits, so that the sum of a thousand is not 1."""
    labels = tuple(f"label {number}" for number in range(1000))
    scores = [round(1 / 1000.3, 7)] * len(labels)
    model = replace(MODEL, labels=labels)
    found = prediction("a")._replace(fragment=fragment(labels, scores))
    for multi_label, applied, refused in ((False, "softmax", "sigmoid"), (True, "sigmoid", "softmax")):
        snapshot = replace(RUNNING, model=replace(model, multi_label=multi_label))
        service = await start(FakeHub(snapshot=snapshot, answer=lambda text: found))
        for wanted, status in ((applied, 200), (refused, 422), ("none", 422)):
            body = {"inputs": "a", "parameters": {"function_to_apply": wanted}}
            answer = await service.client.post("/", json=body)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "error", [BudgetExceeded("over"), NoWorker("none"), QueueFull("much"), Paused("now")]
)
async def test_a_client_was_not_told_when_to_retry(start: Start, error: MillraceError) -> None:
    """After the end of a budget."""
    service = await start(FakeHub(refusal=error), **KEYED, compat=",".join(DIALECTS))
    for path, body in [*REQUESTS.items(), ("/predict", {"text": ["a"]})]:
        answer = await service.client.post(path, json=body, headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code in (429, 503, 504), f"{path}: {answer.text}"
        assert int(answer.headers["retry-after"]) >= 1, path


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


async def test_decisions_are_answered_only_where_the_setting_names_them(start: Start) -> None:
    body = {"questions": [{"type": "predicate", "name": "NEGATIVE"}], "input": "a"}
    for settings, status in (({}, 404), ({"compat": "decisions"}, 200)):
        service = await start(**settings)
        assert (await service.client.post("/v1/decisions", json=body)).status_code == status


def test_settings_name_dialects_and_categories() -> None:
    assert {*CLASSES, "project"} == set(DIALECTS)
    assert parse_dialects(" TEI, oip,tei") == ("tei", "oip")
    assert ApiSettings().compat == DEFAULTS
    assert parse_categories("a=hate, b = c = self-harm") == {"a": "hate", "b = c": "self-harm"}
    assert parse_categories('{"a, b=c": "hate"}') == {"a, b=c": "hate"}
    with pytest.raises(ValueError, match="object of strings"):
        parse_categories('{"a": 1}')
    with pytest.raises(ValueError, match="'tie' is not a dialect"):
        ApiSettings(compat="tie")
    with pytest.raises(ValueError, match="labels with their categories"):
        ApiSettings(moderation_labels="hate")
