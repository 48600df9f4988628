"""tritonclient's HTTP clients, unmodified: binary tensors by default, JSON, compression, classes, errors."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.service import LONG, MAX_TEXTS, NO_WORKER, SHED, Service, running

np = pytest.importorskip("numpy", reason="numpy is not installed")
triton = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed (compat-tests)", exc_type=ImportError
)
from tritonclient.http import aio as triton_aio  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    made = triton.InferenceServerClient(service.url.removeprefix("http://"))
    yield made
    made.close()


def tensor(texts: list[str], *, binary: bool = True, column: bool = False) -> Any:
    data = np.array([text.encode() for text in texts], dtype=np.object_)
    if column:
        data = data.reshape(-1, 1)
    made = triton.InferInput("text", list(data.shape), "BYTES")
    made.set_data_from_numpy(data, binary_data=binary)
    return made


def matches(service: Service, result: Any, texts: list[str]) -> None:
    """The scores are those of /predict, and the labels those with the highest."""
    wanted = [list(scores.values()) for scores in service.scores(*texts)]
    assert np.allclose(result.as_numpy("scores"), np.array(wanted, dtype=np.float32))
    best = [max(scores, key=lambda name: scores[name]) for scores in service.scores(*texts)]
    assert strings(result.as_numpy("label")) == best


def strings(array: Any) -> list[str]:
    """Binary data has bytes, JSON has strings."""
    return [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("texts", [["one text"], ["one", "\U0001f600 two", "", LONG]])
def test_texts(service: Service, client: Any, texts: list[str], binary: bool, column: bool) -> None:
    result = client.infer("stub", [tensor(texts, binary=binary, column=column)], request_id="7")
    matches(service, result, texts)
    assert isinstance(result.as_numpy("label")[0], bytes), "binary output is the client's default"
    answer = result.get_response()
    assert answer["id"] == "7"
    assert answer["parameters"]["truncated"] == (LONG in texts)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(service: Service, client: Any, algorithm: str) -> None:
    texts = ["one", "two"]
    result = client.infer("stub", [tensor(texts)], request_compression_algorithm=algorithm)
    matches(service, result, texts)


def test_outputs_as_asked(service: Service, client: Any) -> None:
    wanted = [triton.InferRequestedOutput("label", binary_data=False), triton.InferRequestedOutput("scores")]
    result = client.infer("alias", [tensor(["one"])], model_version="3", outputs=wanted)
    matches(service, result, ["one"])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["label", "scores"]


@pytest.mark.parametrize("binary", [True, False])
def test_classes(service: Service, client: Any, binary: bool) -> None:
    asked = triton.InferRequestedOutput("scores", binary_data=binary, class_count=1)
    result = client.infer("stub", [tensor(["one", "two"])], outputs=[asked])
    found = strings(result.as_numpy("scores"))
    for line, scores in zip(found, service.scores("one", "two"), strict=True):
        score, index, label = line.split(":")
        assert float(score) == pytest.approx(max(scores.values()), abs=1e-6)
        assert list(scores)[int(index)] == label


async def test_the_client_for_coroutines(service: Service) -> None:
    async with triton_aio.InferenceServerClient(service.url.removeprefix("http://")) as client:
        assert await client.is_server_live()
        matches(service, await client.infer("stub", [tensor(["one"])]), ["one"])


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("stub")
    assert client.is_model_ready("stub", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("stub")
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [output["shape"] for output in described["outputs"]] == [[-1, 2], [-1]]


def test_bad_input_says_why(service: Service, client: Any) -> None:
    with pytest.raises(InferenceServerException, match='serves the model "stub"') as error:
        client.infer("other", [tensor(["one"])])
    assert error.value.status() == "404"
    with pytest.raises(InferenceServerException, match=f"more than {MAX_TEXTS} texts") as error:
        client.infer("stub", [tensor(["x"] * (MAX_TEXTS + 1))])
    assert error.value.status() == "413"
    ids = triton.InferInput("input_ids", [1, 3], "INT64")
    ids.set_data_from_numpy(np.array([[1, 2, 3]], dtype=np.int64))
    with pytest.raises(InferenceServerException, match="token ids are not accepted") as error:
        client.infer("stub", [ids])
    assert error.value.status() == "400"


def test_no_worker_shedding_and_the_clients_timeout(service: Service, client: Any) -> None:
    for refusal, status in ((NO_WORKER, "503"), (SHED, "429")):
        with service.refusing(refusal), pytest.raises(InferenceServerException) as error:
            client.infer("stub", [tensor([f"never seen by triton, {status}"])])
        assert (error.value.status(), error.value.message()) == (status, str(refusal))
    with pytest.raises(InferenceServerException, match="budget") as error:
        client.infer("stub", [tensor(["never seen by triton, no time"])], timeout=1, priority=1)
    assert error.value.status() == "504"


def post(service: Service, content: bytes, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/v2/models/stub/infer", content=content, headers=names)


def test_a_body_is_bounded_after_decompression(service: Service) -> None:
    bomb = zlib.compress(b" " * 3_000_000)
    answer = post(service, bomb, content_encoding="deflate")
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]


def test_broken_encodings_and_tensors_are_refused(service: Service) -> None:
    whole = gzip.compress(b'{"inputs": []}')
    assert post(service, whole[:-9], content_encoding="gzip").status_code == 400
    assert post(service, b"nonsense", content_encoding="gzip").status_code == 400
    assert post(service, whole, content_encoding="br").status_code == 415
    for size, data in ((3, b"abc"), (8, struct.pack("<I", 9) + b"abcd"), (5, struct.pack("<I", 1) + b"\xff")):
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "t",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": size},
                    }
                ]
            }
        ).encode()
        answer = post(service, head + data, inference_header_content_length=str(len(head)))
        assert answer.status_code == 400, answer.text
    for length in ("-1", "x", "99999"):
        assert post(service, b"{}", inference_header_content_length=length).status_code == 400


# The calls of tritonclient that this service does not offer.
NOT_OFFERED: list[tuple[str, tuple[Any, ...]]] = [
    ("get_model_config", ("stub",)),
    ("get_model_config", ("stub", "1")),
    ("get_model_repository_index", ()),
    ("load_model", ("stub",)),
    ("unload_model", ("stub",)),
    ("get_inference_statistics", ()),
    ("get_inference_statistics", ("stub",)),
    ("get_inference_statistics", ("stub", "1")),
    ("get_trace_settings", ()),
    ("get_trace_settings", ("stub",)),
    ("update_trace_settings", ("stub", {"trace_level": ["OFF"]})),
    ("update_trace_settings", (None, {"trace_level": ["OFF"]})),
    ("get_log_settings", ()),
    ("update_log_settings", ({"log_info": True},)),
    ("get_system_shared_memory_status", ()),
    ("get_system_shared_memory_status", ("region",)),
    ("register_system_shared_memory", ("region", "/region", 8)),
    ("unregister_system_shared_memory", ()),
    ("get_cuda_shared_memory_status", ()),
    ("register_cuda_shared_memory", ("region", b"handle", 0, 8)),
    ("unregister_cuda_shared_memory", ("region",)),
]


@pytest.mark.parametrize("accepts", ["", "*"])
def test_calls_that_are_not_offered_got_another_object_or_an_error_that_the_client_could_not_read(
    accepts: str,
) -> None:
    with running(compat="oip", compat_models=accepts) as service:
        client = triton.InferenceServerClient(service.url.removeprefix("http://"))
        for name, arguments in NOT_OFFERED:
            with pytest.raises(InferenceServerException) as error:
                getattr(client, name)(*arguments)
            assert error.value.status() == "404", (name, error.value)
            assert "is not offered; /docs lists all routes" in str(error.value), (name, error.value)
        client.close()


def test_an_output_in_shared_memory_was_sent_in_the_body_and_the_client_read_zeros(client: Any) -> None:
    output = triton.InferRequestedOutput("scores")
    output.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory is not supported") as error:
        client.infer("stub", [tensor(["one"])], outputs=[output])
    assert error.value.status() == "400"
    given = triton.InferInput("text", [1], "BYTES")
    given.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("stub", [given])


def test_the_same_output_twice_is_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="requested more than once"):
        client.infer("stub", [tensor(["one"])], outputs=[triton.InferRequestedOutput("scores")] * 2)


def test_classes_of_the_labels_were_the_labels(client: Any) -> None:
    asked = [triton.InferRequestedOutput("label", class_count=2)]
    with pytest.raises(InferenceServerException, match="classification is for scores"):
        client.infer("stub", [tensor(["a"])], outputs=asked)


def test_binary_data_that_no_input_has_was_left_out(service: Service) -> None:
    body = b'{"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}'
    headers = {"inference-header-content-length": str(len(body))}
    answer = service.http.post("/v2/models/stub/infer", content=body + b"more", headers=headers)
    assert answer.status_code == 400
    assert "no binary_data_size" in answer.json()["error"]


def test_a_raw_binary_request_is_one_text(service: Service) -> None:
    """Its length of JSON is 0. It was an empty body."""
    text = "one \U0001f600 text"
    raw = {"inference_header_content_length": "0", "content_type": "application/octet-stream"}
    answer = post(service, text.encode(), **raw)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    scores, label = json.loads(answer.content[:length])["outputs"]
    assert (scores["shape"], label["shape"]) == ([1, 2], [1])
    found = struct.unpack("<2f", answer.content[length : length + 8])
    assert found == pytest.approx([*service.scores(text)[0].values()], abs=1e-6)
    assert post(service, b"\xff", inference_header_content_length="0").status_code == 400


def test_parameters_that_are_not_known_are_refused(service: Service, client: Any) -> None:
    with pytest.raises(InferenceServerException, match='unknown field "temperature"'):
        client.infer("stub", [tensor(["one"])], parameters={"temperature": 0.5})
    result = client.infer("stub", [tensor(["one"])], priority=1)
    matches(service, result, ["one"])
