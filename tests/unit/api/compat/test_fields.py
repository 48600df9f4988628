"""No field of a request is ignored silently: it is read, refused by name, or named in X-Ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any, get_args
from urllib.parse import unquote

import pytest

from api.asgi.ignored import MODEL_NAMES, plain
from api.compat.fields import ClosedFields, Fields, Unsupported
from api.compat.routes import CLASSES
from api.dialect_names import DIALECTS
from tests.unit.api.service import Service, Start
from tests.unit.fakes import MODEL

TENSOR = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}
OPTIONS = [{"value": "NEGATIVE"}, {"value": "POSITIVE"}]
LEVELS = [{"label": "NEGATIVE"}, {"label": "POSITIVE"}]
QUESTIONS = [
    {"type": "predicate", "name": "NEGATIVE"},
    {"type": "choice", "name": "q", "choices": OPTIONS},
    {"type": "score", "name": "q", "levels": LEVELS},
]
# A request of each route with a body, in which lists are as long as the objects in them have kinds.
BODIES: dict[str, Any] = {
    "/": {"inputs": "a"},
    "/models/stub": {"inputs": "a"},
    "/predict": {"inputs": "a"},
    "/v2/models/stub/infer": {"inputs": [TENSOR], "outputs": [{"name": "scores"}]},
    "/v2/models/stub/versions/a1b2c3d4e5f6/infer": {"inputs": [TENSOR], "outputs": [{"name": "scores"}]},
    "/v1/models/stub:predict": {"instances": ["a"]},
    "/classify": {"input": "a"},
    "/v1/classify": {"input": "a"},
    "/v1/moderations": {"input": "a"},
    "/api/v1/text/contents": {"contents": ["a"]},
    "/v1/decisions": {"input": "a", "questions": QUESTIONS},
    "/invocations": {"inputs": "a"},
    "/vertex/predict": {"instances": ["a"]},
}
Place = tuple[str | int, ...]


def fields_within(annotation: Any) -> Iterator[type[Fields]]:
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        yield annotation
    for part in get_args(annotation):
        yield from fields_within(part)


def objects(model: type[Fields], place: Place = ()) -> Iterator[tuple[Place, type[Fields]]]:
    """Every object that a request may have, and where."""
    yield place, model
    for name, about in model.model_fields.items():
        kinds = list(dict.fromkeys(fields_within(about.annotation)))
        listed = "list[" in str(about.annotation)
        for index, kind in enumerate(kinds):
            yield from objects(kind, (*place, name, index) if listed else (*place, name))


def put(body: Any, place: Place, name: str, value: Any) -> str:
    """The body as JSON with one more field."""
    made = deepcopy(body)
    inner = made
    for part in place:
        inner = inner[part] if isinstance(part, int) else inner.setdefault(part, {})
    inner[name] = value
    return json.dumps(made)


def model_of(path: str) -> type[Fields]:
    """The schema of a route's body."""
    template = path.replace("/models/stub", "/models/{model}").replace(
        "/versions/a1b2c3d4e5f6", "/versions/{version}"
    )
    routes = [route for kind in CLASSES.values() for route in kind(SERVICE).routes()]
    models = {route.body for route in routes if route.path == template and route.body}
    found = [model for model in models if set(BODIES[path]) <= set(model.model_fields)]
    assert len(found) == 1, (path, template)
    assert issubclass(found[0], Fields)
    return found[0]


class _NoService:
    """What the routes of dialects need before they are asked."""

    class settings:  # noqa: N801
        vertex_predict, vertex_health = "/vertex/predict", "/vertex/health"


SERVICE: Any = _NoService()
CASES = [(path, place, kind) for path in BODIES for place, kind in objects(model_of(path))]
every_object = pytest.mark.parametrize(
    ("path", "place", "kind"), CASES, ids=[f"{path} {'.'.join(map(str, place))}" for path, place, _ in CASES]
)


@pytest.fixture
async def service(start: Start) -> Service:
    return await start(compat=",".join(DIALECTS), moderation_labels="NEGATIVE=hate")


def named(place: Place, name: str) -> str:
    return ".".join([*(part for part in place if isinstance(part, str)), name])


def strings_in(body: Any) -> list[str]:
    if isinstance(body, dict | list):
        parts = body.values() if isinstance(body, dict) else body
        return [one for part in parts for one in strings_in(part)]
    return [str(body)]


def unknown_names(kind: type[Fields], random: Random) -> list[str]:
    """Mistyped known fields, and odd names, but for those that name a model."""
    known = [*kind.model_fields]
    typos = []
    for name in random.sample(known, min(4, len(known))):
        at = random.randrange(len(name))
        typos += [name[:at] + name[at + 1 :], f"{name[:at]}{name[at]}{name[at:]}", name.upper(), f"{name}s"]
    odd = ["", "a, b", "x\r\ny: z", "\u00fc\u4e2d", "n" * 500, "{why}", "__class__"]
    texts = {"text", "texts", "inputs", "input", "instances", "contents", "state", "sentences", "documents"}
    used = {*known, *texts}
    every = [name for name in [*typos, *odd] if name not in used and name.lower() not in texts]
    return [name for name in every if plain(name) not in MODEL_NAMES]


@every_object
async def test_an_unknown_field_had_no_effect_and_no_client_was_told(
    service: Service, path: str, place: Place, kind: type[Fields]
) -> None:
    for name in unknown_names(kind, Random(f"{path} {place}")):
        service.hub.asked.clear()
        answer = await service.client.post(path, content=put(BODIES[path], place, name, "1"))
        if issubclass(kind, ClosedFields):
            assert answer.status_code in (400, 422), (name, answer.text)
            assert name[:64] in "\n".join(strings_in(answer.json())), (name, answer.text)
            assert service.hub.asked == [], name
        else:
            assert answer.status_code == 200, (name, answer.text)
            ignored = [unquote(one) for one in answer.headers["x-ignored"].split(", ")]
            assert named(place, name)[:64] in ignored, (name, ignored)


@every_object
async def test_a_known_field_that_is_not_supported_had_no_effect_and_no_client_was_told(
    service: Service, path: str, place: Place, kind: type[Fields]
) -> None:
    for name, about in kind.model_fields.items():
        refusals = [one for one in about.metadata if isinstance(one, Unsupported)]
        for refusal in refusals:
            for value in ("other", 7, {"a": 1}, ["a"]):
                service.hub.asked.clear()
                answer = await service.client.post(path, content=put(BODIES[path], place, name, value))
                assert answer.status_code in (400, 422), (name, answer.text)
                assert name in answer.text, answer.text
                assert refusal.why in answer.text, answer.text
                assert service.hub.asked == [], name
            for value in (None, *refusal.harmless):
                answer = await service.client.post(path, content=put(BODIES[path], place, name, value))
                assert answer.status_code == 200, (name, value, answer.text)
                assert "x-ignored" not in answer.headers


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("/", {"parameters": {"topk": 1}}, "did you mean top_k?"),
        ("/", {"parameters": {"top-K": 1}}, "did you mean top_k?"),
        ("/", {"parameters": {"max_length": 4, "truncation": True}}, "max_length"),
        ("/", {"parameters": {"return_all_scores": False}}, "return_all_scores"),
        ("/", {"options": {"use_cache": False}}, "use_cache"),
        ("/", {"top_k": 1}, "send it in parameters"),
        ("/", {"stream": True}, "answers are not streamed"),
        ("/invocations", {"top_k": 1}, "send it in parameters"),
        ("/invocations", {"options": {"use_cache": False}}, "use_cache"),
        ("/vertex/predict", {"instances": [{"text": "a", "top_k": 1}]}, "top_k"),
        ("/vertex/predict", {"instances": [{"text": "a", "model": "b"}]}, "model"),
        ("/vertex/predict", {"instances": [{"text": "a", "modelName": "b"}]}, "modelName"),
        ("/vertex/predict", {"instances": [{"text": "a", "topK": 1}]}, "topK"),
        ("/vertex/predict", {"instances": [{"inputs": "a", "truncate": False}]}, "truncate"),
        ("/vertex/predict", {"instances": [{"inputs": "a", "raw_scores": True}]}, "raw_scores"),
        ("/vertex/predict", {"instances": [{"text": "a", "Text": "b"}]}, "one of the keys"),
        ("/vertex/predict", {"instances": [{"content": "a", "INPUTS": ["b"]}]}, "one of the keys"),
        ("/classify", {"add_special_tokens": False}, "add_special_tokens"),
        ("/classify", {"raw_scores": True}, "raw_scores"),
        ("/v1/models/stub:predict", {"parameters": {"top_k": 1}}, "parameters"),
        ("/api/v1/text/contents", {"detector_params": {"treshold": 0.99}}, "did you mean threshold?"),
        ("/api/v1/text/contents", {"detector_params": {"threshold": False}}, "threshold"),
        ("/api/v1/text/contents", {"detectorParams": {"treshold": 0.9}}, "did you mean detector_params?"),
        ("/api/v1/text/contents", {"params": {"limit": 0.9}}, "did you mean detector_params?"),
        ("/api/v1/text/contents", {"options": {"Threshold": 0.9}}, "send Threshold in detector_params"),
        ("/", {"topK": 1}, "send it in parameters"),
        ("/v1/moderations", {"user": "me"}, 'unknown field "user"'),
        ("/predict", {"parameters": {"top_k": 1}}, "only POST / has parameters"),
        (
            "/v1/decisions",
            {"questions": [{"type": "choice", "choices": [{"value": 0}, {"value": "NEGATIVE"}]}]},
            "value",
        ),
    ],
)
async def test_what_the_review_found_is_refused(
    service: Service, path: str, more: dict[str, Any], said: str
) -> None:
    answer = await service.client.post(path, json=BODIES[path] | more)
    assert answer.status_code in (400, 422), answer.text
    assert said in answer.text.replace('\\"', '"')
    assert service.hub.asked == []


async def test_known_fields_without_effect_are_named(service: Service) -> None:
    for path, more, ignored in (
        ("/classify", {"user": "me", "truncate_prompt_token": 5}, "truncate_prompt_token, user"),
        ("/", {"options": {"wait_for_model": True}}, "options.wait_for_model"),
        ("/", {"parameters": {"padding": True}}, "parameters.padding"),
        (
            "/vertex/predict",
            {"instances": [{"content": "a", "mimeType": "text/plain"}]},
            "instances.mimeType",
        ),
        ("/v2/models/stub/infer", {"parameters": {"priority": 1}}, "parameters.priority"),
    ):
        answer = await service.client.post(path, json=BODIES[path] | more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-ignored"] == ignored


async def test_many_unknown_fields_make_a_short_header(service: Service) -> None:
    answer = await service.client.post("/", json={"inputs": "a", **{f"f{n}": n for n in range(5000)}})
    assert answer.status_code == 200
    assert answer.headers["x-ignored"].endswith("f15, and 4984 more")


@every_object
async def test_a_parameter_beside_or_around_its_object_had_no_effect(
    service: Service, path: str, place: Place, kind: type[Fields]
) -> None:
    """`detector_param` with a threshold, as one letter was missing, was answered by the threshold 0.5."""
    for name, about in kind.model_fields.items():
        closed = issubclass(kind, ClosedFields)  # refuses every unknown field
        inside = (
            []
            if closed
            else [one for one in fields_within(about.annotation) if issubclass(one, ClosedFields)]
        )
        for parameter in {key for one in inside for key in one.model_fields} - {*kind.model_fields}:
            for given in ({parameter: 1}, {f"{name}x": {parameter: 1}}):
                ((key, value),) = given.items()
                answer = await service.client.post(path, content=put(BODIES[path], place, key, value))
                assert answer.status_code in (400, 422), (given, answer.text)
                assert any(f"in {one}" in answer.text for one in kind.model_fields), answer.text
    assert service.hub.asked == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/", '"inputs": "a", "parameters": {"top_k": 1}, "parameters": {"top_k": 2}'),
        ("/", '"inputs": "a", "parameters": {"top_k": 1, "top_k": 2}'),
        ("/api/v1/text/contents", '"contents": ["a"], "detector_params": {"threshold": 0.9, "threshold": 0}'),
        ("/predict", '"truncate": false, "inputs": "a", "truncate": true'),
        ("/classify", '"model": "stub", "input": "a", "model": "stub"'),
        ("/v2/models/stub/infer", f'"inputs": [{json.dumps(TENSOR)}], "id": "a", "id": "b"'),
    ],
)
async def test_of_a_parameter_that_was_given_twice_the_last_one_counted(
    service: Service, path: str, fields: str
) -> None:
    answer = await service.client.post(path, content=f"{{{fields}}}")
    assert answer.status_code in (400, 422), answer.text
    assert "is given twice" in answer.text
    assert service.hub.asked == []


@pytest.mark.parametrize(
    ("path", "place", "name"),
    [
        ("/", ("parameters",), "top_k"),
        ("/classify", (), "truncate_prompt_tokens"),
        ("/v2/models/stub/infer", ("parameters",), "timeout"),
        ("/v2/models/stub/infer", ("outputs", 0, "parameters"), "classification"),
    ],
)
async def test_a_whole_number_with_a_point_was_no_integer(
    service: Service, path: str, place: Place, name: str
) -> None:
    """JSON Schema calls 5.0 an integer, and so do clients whose language has one kind of number."""
    for value, status in (
        ("9e6", 200),
        ("9000000.0", 200),
        ("1.5", 400),
        ('"9"', 400),
        ("true", 400),
        ("-2", 400),
    ):
        body = put(BODIES[path], place, name, "NUMBER").replace('"NUMBER"', value)
        answer = await service.client.post(path, content=body)
        assert answer.status_code in (status, 422 if status == 400 else status), (value, answer.text)
        assert status == 200 or name in answer.text


async def test_texts_of_both_kinds_or_of_none_are_refused_by_an_invocation(service: Service) -> None:
    for body in ({}, {"inputs": None, "text": ["a"]}, {"text": None}, {"inputs": "a", "text": None}):
        assert (await service.client.post("/invocations", json=body)).status_code == 422, body


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        ("/api/v1/text/contents", "detector-id", ("other", "stub")),
        ("/v2/models/stub/infer", "inference-header-content-length", ("2", "3")),
    ],
)
async def test_of_a_header_that_was_given_twice_the_last_one_counted(
    service: Service, path: str, name: str, values: tuple[str, str]
) -> None:
    answer = await service.client.post(path, json=BODIES[path], headers=[(name, one) for one in values])
    assert answer.status_code in (400, 422), answer.text
    assert f"the header {name} is given twice" in answer.text
    assert service.hub.asked == []


@pytest.mark.parametrize("path", ["/", "/models/stub", "/invocations"])
async def test_a_header_that_leaves_out_the_cache_was_ignored(service: Service, path: str) -> None:
    """As former clients of Hugging Face send it in place of options.use_cache."""
    for value, status in (("0", 422), ("false", 422), ("no", 422), ("1", 200)):
        answer = await service.client.post(path, json=BODIES[path], headers={"x-use-cache": value})
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", ["model_name", "Model", "modelId", "detector-id", "MODEL_NAME"])
async def test_another_name_for_the_field_of_the_model_was_answered_by_the_wrong_one(
    service: Service, path: str, name: str
) -> None:
    """Also beside `model`, which alone was looked at: {"model": "stub", "model_name": "topics"}."""
    for more in ({name: "topics"}, {"model": "stub", name: "topics"}, {"model": None, name: "topics"}):
        answer = await service.client.post(path, json=BODIES[path] | more)
        assert answer.status_code in (400, 404, 422), (more, answer.text)
    answer = await service.client.post(f"{path}?{name}=topics", json=BODIES[path])
    assert answer.status_code in (400, 422), answer.text
    assert service.hub.asked == []
    if not issubclass(model_of(path), ClosedFields):
        same = await service.client.post(path, json=BODIES[path] | {name: "stub"})
        assert (same.status_code, same.headers["x-ignored"]) == (200, name)


async def test_a_threshold_in_the_query_was_ignored_if_its_name_was_written_otherwise(
    service: Service,
) -> None:
    for path, name in (("/api/v1/text/contents", "Threshold"), ("/", "topK"), ("/predict", "raw-scores")):
        answer = await service.client.post(f"{path}?{name}=1", json=BODIES[path])
        assert (answer.status_code, name in answer.text) == (422, True), answer.text


async def test_the_model_of_sagemakers_header_was_ignored(service: Service) -> None:
    for name, status in (("stub", 200), ("topics", 404)):
        headers = {"X-Amzn-SageMaker-Target-Model": name}
        answer = await service.client.post("/invocations", json=BODIES["/invocations"], headers=headers)
        assert answer.status_code == status, answer.text


async def test_another_revision_answered_if_it_was_in_capitals_or_in_the_body(service: Service) -> None:
    infer = "/v2/models/stub/infer"
    own, other = MODEL.revision[:12], "f" * 12
    for revision, status in ((own, 200), (own.upper(), 200), (other, 404), (other.upper(), 404)):
        path = infer.replace("/infer", f"/versions/{revision}/infer")
        assert (await service.client.post(path, json=BODIES[infer])).status_code == status, revision
        asked = BODIES[infer] | {"model_version": revision}
        assert (await service.client.post(infer, json=asked)).status_code == status, revision


@pytest.mark.parametrize("path", ["/info", "/models/stub/info", "/v1/models", "/v2/models/stub"])
async def test_a_model_in_the_query_was_answered_by_the_description_of_another(
    service: Service, path: str
) -> None:
    answer = await service.client.get(f"{path}?model=topics")
    assert answer.status_code in (400, 422), answer.text
    assert "how clients of this service name a model" in answer.text
    assert (await service.client.get(f"{path}?verbose=1")).headers["x-ignored"] == "?verbose"


async def test_a_number_in_place_of_true_was_taken_for_it(service: Service) -> None:
    for value in (1, 0, "off"):
        answer = await service.client.post("/predict", json={"inputs": "a", "truncate": value})
        assert answer.status_code == 422, answer.text


async def test_parts_of_messages_had_fields_without_effect(service: Service) -> None:
    question = {"questions": QUESTIONS[:1]}
    part = {"type": "input_text", "text": "a"}
    for path, body, said in (
        ("/v1/moderations", {"input": [{"type": "text", "text": "a", "lang": "de"}]}, "lang"),
        ("/v1/decisions", {"input": [{"role": "user", "content": "a", "lang": "de"}], **question}, "lang"),
        (
            "/v1/decisions",
            {"input": [{"role": "user", "content": [{**part, "lang": "de"}]}], **question},
            "lang",
        ),
        (
            "/v1/decisions",
            {"input": [{"role": "user", "content": [{**part, "type": "input_image"}]}], **question},
            "only parts of type input_text",
        ),
        (
            "/v1/decisions",
            {"input": [{"type": "reasoning", "role": "user", "content": "a"}], **question},
            "one user message",
        ),
    ):
        answer = await service.client.post(path, json=body)
        assert answer.status_code in (400, 422), answer.text
        assert said in answer.text
    message = {"type": "message", "role": "user", "content": [part]}
    assert (await service.client.post("/v1/decisions", json={"input": [message], **question})).is_success


@pytest.mark.parametrize("body", [{}, {"input": 5}])
async def test_an_error_of_openai_names_the_field(service: Service, body: dict[str, Any]) -> None:
    answer = await service.client.post("/v1/moderations", json=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["param"] == "input"
