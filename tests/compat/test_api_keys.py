"""API keys as unmodified clients send them, and what a wrong key or origin looks like there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

import pytest

from api.dialect_names import DIALECTS
from tests.compat.service import Service, running
from tests.lazy import Lazy, require_modules

np = pytest.importorskip("numpy", reason="numpy is not installed")
require_modules("huggingface_hub", "openai")
hub: Any = Lazy("huggingface_hub")
openai: Any = Lazy("openai")
triton = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed (compat-tests)", exc_type=ImportError
)

KEY, WRONG = "k" * 43, "w" * 43


@pytest.fixture(scope="module")
def keyed() -> Iterator[Service]:
    settings = {"moderation_labels": "NEGATIVE=harassment", "compat": ",".join(DIALECTS)}
    with running(api_keys=f"web:{sha256(KEY.encode()).hexdigest()}", **settings) as made:
        yield made


def with_openai(url: str, key: str, **headers: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, default_headers=headers) as client:
        assert client.moderations.create(input="one").results
        assert client.models.list().data
        with suppress(openai.NotFoundError):
            client.batches.retrieve("batch_1")


def with_huggingface(url: str, key: str, **headers: str) -> None:
    with hub.InferenceClient(base_url=url, token=key, provider="hf-inference", headers=headers) as client:
        assert client.text_classification("one")
        assert client.get_endpoint_info()


def with_triton(url: str, key: str, **headers: str) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    sent = {"Authorization": f"Bearer {key}", **headers}
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"one"], dtype=np.object_))
    try:
        assert client.is_server_ready()  # needs none
        client.infer("stub", [given], headers=sent)
        client.get_model_metadata("stub", headers=sent)
    finally:
        client.close()


CLIENTS = {"openai": with_openai, "huggingface_hub": with_huggingface, "tritonclient": with_triton}
every_client = pytest.mark.parametrize("use", CLIENTS.values(), ids=CLIENTS)


@every_client
def test_a_key_as_the_client_sends_it(keyed: Service, use: Callable[..., None]) -> None:
    use(keyed.url, KEY)


@every_client
@pytest.mark.parametrize(
    ("key", "headers", "status", "said"),
    [
        (WRONG, {}, 401, "API key"),
        (KEY, {"Origin": "https://elsewhere.example"}, 403, "cross-site request"),
    ],
)
def test_a_refusal_in_the_form_that_the_client_reads(
    keyed: Service, use: Callable[..., None], key: str, headers: dict[str, str], status: int, said: str
) -> None:
    with pytest.raises(Exception, match=said) as error:
        use(keyed.url, key, **headers)
    assert _status(error.value) == status


def _status(error: Any) -> int:
    """The status, where each client has it."""
    with suppress(AttributeError):
        return int(error.response.status_code)
    return int(error.status())
