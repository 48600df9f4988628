"""huggingface_hub's own clients, unmodified, with the service's URL in place of an endpoint's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.compat.service import LONG, NO_WORKER, SHED, Service, running
from tests.tools import needs

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (compat-tests)")
from huggingface_hub.errors import HfHubHTTPError  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(service: Service) -> hub.InferenceClient:
    return hub.InferenceClient(base_url=service.url, provider="hf-inference", token="unused")


def by_label(elements: list[hub.TextClassificationOutputElement]) -> dict[str, float]:
    return {element.label: element.score for element in elements}


@pytest.mark.parametrize("text", ["one text", LONG, "", "\0 odd \U0001f600"])
def test_one_text(service: Service, client: hub.InferenceClient, text: str) -> None:
    found = client.text_classification(text)
    assert by_label(found) == service.scores(text)[0]
    assert found[0].score >= found[1].score


def test_parameters(service: Service, client: hub.InferenceClient) -> None:
    best = client.text_classification("one text", top_k=1, function_to_apply="softmax")
    assert by_label(best).items() <= service.scores("one text")[0].items()
    assert len(best) == 1


async def test_the_client_for_coroutines(service: Service) -> None:
    async with hub.AsyncInferenceClient(base_url=service.url, token="unused") as client:
        assert by_label(await client.text_classification("one text")) == service.scores("one text")[0]
        with pytest.raises(HfHubHTTPError):
            await client.text_classification("x" * 7000)


def test_a_model_by_its_url(service: Service) -> None:
    client = hub.InferenceClient(model=f"{service.url}/models/alias", token="unused")
    assert by_label(client.text_classification("one text")) == service.scores("one text")[0]
    other = hub.InferenceClient(model=f"{service.url}/models/org/other", token="unused")
    with pytest.raises(HfHubHTTPError) as error:
        other.text_classification("one text")
    assert error.value.response.status_code == 404


def test_bad_input_says_why(client: hub.InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match="the scores of this model are softmax") as error:
        client.text_classification("one text", function_to_apply="none")
    assert error.value.response.status_code == 422


def test_no_worker_and_shedding(service: Service, client: hub.InferenceClient) -> None:
    for refusal, status in ((NO_WORKER, 503), (SHED, 429)):
        with service.refusing(refusal), pytest.raises(HfHubHTTPError) as error:
            client.text_classification(f"never seen by hugging face, {status}")
        assert error.value.response.status_code == status
        assert "retry-after" in error.value.response.headers


def test_endpoint_info_and_health(client: hub.InferenceClient) -> None:
    assert client.get_endpoint_info()["model_id"] == "stub"
    assert client.health_check()
    with running(worker=False) as without:
        found = hub.InferenceClient(base_url=without.url, provider="hf-inference", token="unused")
        assert not found.health_check(), "texts would get 503"


def test_endpoint_info_and_health_of_a_model_by_its_url(service: Service) -> None:
    for name, served in (("alias", True), ("other", False)):
        url = f"{service.url}/models/{name}"
        client = hub.InferenceClient(model=url, provider="hf-inference", token="unused")
        assert client.health_check() is served
    known = hub.InferenceClient(model=f"{service.url}/models/alias", provider="hf-inference", token="unused")
    assert known.get_endpoint_info()["model_id"] == "stub"


def test_a_stream_of_generated_text_was_empty(client: hub.InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match="answers are not streamed"):
        list(client.text_generation("one text", stream=True))


def test_the_javascript_client(service: Service) -> None:
    package = ROOT / "node_modules/@huggingface/inference"
    if not package.exists():
        pytest.skip("needs `npm install --no-save @huggingface/inference` in this repository")
    needs("node")
    script = f"""
    import {{ InferenceClient }} from "@huggingface/inference";
    const client = new InferenceClient("unused", {{ endpointUrl: "{service.url}" }});
    console.log(JSON.stringify(await client.textClassification({{ inputs: "one text" }})));
    """
    run = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {pair["label"]: pair["score"] for pair in json.loads(run.stdout)} == service.scores("one text")[0]
