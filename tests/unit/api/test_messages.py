"""What people read when a request is wrong, word for word."""

from __future__ import annotations

import pytest

from api.settings import ApiSettings
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import serving
from tests.unit.api.service import Service, Start, assert_problem

BODIES = [
    (b'{"texts": ["a"]}', 'unknown field: did you mean "text"?'),
    (b'{"input": ["a"]}', 'unknown field: did you mean "text"?'),
    (b'{"txt": ["a"]}', 'unknown field: did you mean "text"?'),
    (b'{"text": ["a"], "inputs": ["a"]}', 'unknown field beside text: the body is {"text": ["...", ...]}'),
    (b'{"model": 1}', 'unknown field: the body is {"text": ["...", ...]}'),
    (b"{'text': ['a']}", "JSON needs double quotes at character 2"),
    (b"{\"text\": ['a']}", "text 0: JSON needs double quotes at character 11"),
    (b'{"text": ["a",]}', "text 1: a comma too many before ] at character 15"),
    (b'{"text": ["a"],}', "a comma too many before } at character 16"),
    (b'{"text": ["a" "b"]}', 'text 1: expected "," or "]" at character 15'),
    (b'{"text": ["a", "b"}', 'text 2: expected "," or "]" at character 19'),
    (b'{"text": ["a"]} x', "unexpected data after the object at character 17"),
    (b'{"text": ["a"', "text 1: unexpected end of the body"),
    (b"hello", 'not valid JSON: must be an object with the field "text" at character 1'),
    (b'{"text": "a"}', "must be a list of strings"),
]


@pytest.mark.parametrize(("body", "said"), BODIES)
async def test_a_wrong_body_is_refused_in_words(service: Service, body: bytes, said: str) -> None:
    answer = await service.client.post("/predict", content=body)
    assert answer.status_code == 422
    assert [problem["msg"] for problem in answer.json()["detail"]] == [said]
    assert answer.headers["link"] == '</docs>; rel="help"'


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/predict", "no such route; did you mean /predict? /docs lists all routes"),
        ("/predicts", "no such route; did you mean /predict? /docs lists all routes"),
        ("/job", "no such route; did you mean /jobs? /docs lists all routes"),
        ("/healthz", "no such route; did you mean /health? /docs lists all routes"),
        ("/xyzzy", "no such route; /docs lists all routes"),
        ("/pooling", "no such route; /docs lists all routes"),
        ("/invocations", "no such route; /docs lists all routes"),
    ],
)
async def test_an_unknown_route_names_the_one_that_was_meant(service: Service, path: str, said: str) -> None:
    answer = await service.client.get(path)
    assert (answer.status_code, answer.json()["detail"]) == (404, said)
    assert answer.headers["link"] == '</docs>; rel="help"'


@pytest.mark.parametrize(
    "path",
    ["/moderations", "/v1/v1/moderations", "/openai/v1/moderations", "/V1/Moderations"],
)
async def test_a_wrong_url_of_moderations_sends_no_client_to_openai(service: Service, path: str) -> None:
    """Clients take 404 for a service without moderations, and send the text there."""
    answer = await service.client.post(path, json={"input": "a"})
    assert_problem(answer, 400, "not_found")
    said = answer.json()
    assert (said["error"]["message"], said["error"]["code"]) == (said["detail"], "not_found")
    assert "it is /v1/moderations" in said["detail"]


async def test_moderations_that_are_left_out_send_no_client_to_openai(start: Start) -> None:
    service = await start(compat="tei")
    answer = await service.client.post("/v1/moderations", json={"input": "a", "model": "b"})
    assert_problem(answer, 400, "not_found")


async def test_a_wrong_method_names_the_right_one(service: Service) -> None:
    answer = await service.client.get("/predict?text=a")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["detail"] == "this route takes POST; /docs shows how"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/", {"inputs": {"text": "a"}}, "inputs: must be a string or a list of strings"),
        ("/", {"inputs": []}, "must hold at least one text"),
        ("/", {"inputs": ["a", {"text": "a"}]}, "text 1: must be a string, not an object"),
        ("/v1/models/stub:predict", {"instances": [["a"]]}, "text 0: must be a string, not a list"),
        ("/v1/models/stub:predict", {"instances": [True]}, "text 0: must be a string, not true or false"),
        ("/v1/models/stub:predict", {"instances": [None]}, "text 0: must be a string, not null"),
        ("/v1/models/stub:predict", {"instances": [0.5]}, "text 0: must be a string, not a number"),
        (
            "/v1/models/stub:predict",
            {"instances": [[1, 2]]},
            "text 0: must be a string; token ids are not accepted",
        ),
    ],
)
async def test_a_body_of_a_dialect_is_refused_in_words(
    service: Service, path: str, body: object, said: str
) -> None:
    assert (await service.client.post(path, json=body)).json() == {"error": said}


async def test_a_part_of_a_moderation_with_a_list_became_several_results(start: Start) -> None:
    service = await start(moderation_labels="NEGATIVE=hate")
    body = {"input": [{"type": "text", "text": ["a", "b"]}]}
    answer = await service.client.post("/v1/moderations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "input: the text of a part must be a string"


@pytest.mark.parametrize("path", ["/predict/", "/models/stub/predict/"])
async def test_a_request_with_a_slash_at_its_end_counted_twice(start: Start, path: str) -> None:
    service = await start(rate_limit="1/minute")
    found = [await service.client.post(path, json={"text": ["a"]}) for _ in range(2)]
    assert [answer.status_code for answer in found] == [200, 429]
    assert "x-frame-options" not in found[0].headers, "it went through the framework"


async def test_a_slash_too_many_is_answered(service: Service) -> None:
    answer = await service.client.post("/predict/", json={"text": ["a"]})
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1


@pytest.mark.parametrize("path", ["/redoc", "/docs/", "/swagger"])
async def test_other_names_of_the_reference_lead_to_it(service: Service, path: str) -> None:
    answer = await service.client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


@pytest.mark.parametrize("headers", [{}, {"authorization": "sesame"}, {"x-api-key": "sesame"}])
async def test_a_missing_key_names_the_headers_for_it(start: Start, headers: dict[str, str]) -> None:
    service = await start(api_keys=f"web:{'a' * 64}")
    answer = await service.client.post("/predict", json={"text": ["a"]}, headers=headers)
    said = "a valid API key is required: send Authorization: Bearer KEY, or X-API-Key: KEY"
    assert (answer.status_code, answer.json()["detail"]) == (401, said)


async def test_a_preflight_is_no_route(service: Service) -> None:
    answer = await service.client.options("/predict")
    assert (answer.status_code, answer.json()["detail"]) == (405, "this route takes POST; /docs shows how")


JOBS = [
    (
        "multipart/form-data; boundary=b",
        b"--b--",
        415,
        "send the file itself and not a form: --data-binary @reviews.csv -H 'Content-Type: text/csv'",
    ),
    (
        "text/plain",
        b"a",
        415,
        "the content type must be one of application/json, application/x-ndjson, application/jsonl, "
        "text/csv; or name a file with /jobs?filename=reviews.csv",
    ),
    (
        "text/csv",
        b"text",
        422,
        "there are no texts; if curl sent them: -d drops line ends, --data-binary keeps them",
    ),
]


@pytest.mark.parametrize(("kind", "body", "status", "said"), JOBS)
async def test_a_body_that_is_no_job_is_refused_in_words(
    fake_redis: FakeRedis, kind: str, body: bytes, status: int, said: str
) -> None:
    async with serving(fake_redis, ApiSettings()) as api:
        answer = await api.client.post("/jobs", content=body, headers={"content-type": kind})
    detail = answer.json()["detail"]
    assert answer.status_code == status
    assert (detail if isinstance(detail, str) else detail[0]["msg"]) == said
