"""The openai package, unmodified: moderations by a mapping of labels to categories."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compat.service import LONG, MAX_TEXTS, NO_WORKER, SHED, Service, running
from tests.lazy import Lazy, require_modules

require_modules("openai")
openai: Any = Lazy("openai")


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("text", ["one text", LONG])
def test_one_text(service: Service, client: openai.OpenAI, text: str) -> None:
    found = client.moderations.create(input=text)
    score = service.scores(text)[0]["NEGATIVE"]
    (result,) = found.results
    assert result.category_scores.harassment == score
    assert result.categories.harassment is result.flagged is (score >= 0.5)
    assert result.categories.self_harm_intent is False
    assert result.category_scores.violence_graphic == 0.0
    assert result.category_applied_input_types.hate == ["text"]
    assert (found.model, found.id[:5]) == ("stub", "modr-")


def test_a_batch_and_a_part(service: Service, client: openai.OpenAI) -> None:
    texts = ["one", "two", "three"]
    found = client.moderations.create(input=texts, model="alias")
    scores = [result.category_scores.harassment for result in found.results]
    assert scores == [by_label["NEGATIVE"] for by_label in service.scores(*texts)]
    part = client.moderations.create(input=[{"type": "text", "text": "one"}])
    assert part.results[0].category_scores.harassment == scores[0]


@pytest.mark.parametrize(
    "name",
    ["omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-stable", "text-moderation-007"],
)
def test_a_client_that_asks_for_a_model_of_openai_is_answered_and_sends_no_text_elsewhere(
    service: Service, client: openai.OpenAI, name: str
) -> None:
    found = client.moderations.create(input="one text", model=name)
    assert found.results[0].category_scores.harassment == service.scores("one text")[0]["NEGATIVE"]
    assert found.model == "stub"


def test_another_model_is_no_missing_route_which_clients_would_look_for_at_openai(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match='serves the model "stub"') as refused:
        client.moderations.create(input="x", model="omni-moderation")
    assert refused.value.code == "model_not_found"


def test_a_model_that_was_retrieved_had_no_id(client: openai.OpenAI) -> None:
    """It was the object of KServe."""
    model = client.models.retrieve("stub")
    assert (model.id, model.object, model.owned_by) == ("stub", "model", "millrace")
    assert [one.id for one in client.models.list()] == ["stub"]
    with pytest.raises(openai.NotFoundError, match='serves the model "stub"'):
        client.models.retrieve("other")


def test_errors_of_files_and_batches_say_why() -> None:
    """Those of a missing key, a limit and a wrong method said only their status."""
    keyed = running(compat="openai", api_keys=f"web:{'a' * 64}")
    with keyed as service, openai.OpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=0) as client:
        for call in (client.files.list, client.batches.list, lambda: client.files.retrieve("file-1")):
            with pytest.raises(openai.AuthenticationError, match="a valid API key is required") as refused:
                call()
            assert refused.value.code == "unauthorized"


def test_a_field_that_openai_does_not_know_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match='unknown field "threshold"'):
        client.moderations.create(input="one text", extra_body={"threshold": 0.1})


async def test_the_client_for_coroutines(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused") as client:
        found = await client.moderations.create(input="one text")
    assert found.results[0].category_scores.harassment == service.scores("one text")[0]["NEGATIVE"]


def test_bad_input_says_why(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must hold at least one text"):
        client.moderations.create(input=[])
    with pytest.raises(openai.APIStatusError, match=f"more than {MAX_TEXTS} texts"):
        client.moderations.create(input=["x"] * (MAX_TEXTS + 1))


def test_no_worker_and_shedding(service: Service, client: openai.OpenAI) -> None:
    with service.refusing(NO_WORKER), pytest.raises(openai.InternalServerError, match="no worker"):
        client.moderations.create(input="never seen by openai, no worker")
    with service.refusing(SHED), pytest.raises(openai.RateLimitError, match="too much is waiting") as error:
        client.moderations.create(input="never seen by openai, shed")
    assert error.value.response.headers["retry-after"] == "3"


def test_a_model_without_such_labels_moderates_nothing() -> None:
    """A text that is POSITIVE must not be flagged because it has a high score for something."""
    with running(compat="openai") as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="MILLRACE_MODERATION_LABELS"):
            client.moderations.create(input="one text")
        assert service.http.post("/classify", json={"input": "a"}).status_code == 404
        assert service.http.post("/predict", json={"inputs": "a"}).json()["code"] == "invalid_request"
