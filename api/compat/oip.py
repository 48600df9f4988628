"""Open Inference Protocol v2, as KServe and Triton speak it over HTTP."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, WithJsonSchema

from api.asgi.http import MAX_DIGITS, Answer, RequestHeaders, check_json, route_path
from api.asgi.json_reader import NOT_UTF8, is_unicode
from api.compat.dialect import BAD_REQUEST, BINARY, Dialect, Route, json_answer
from api.compat.fields import ClosedFields, Count, Fields, Ignored, Integer, Unsupported
from api.compat.reading import invalid_text, only_value, refused, text_list
from api.compat.service import Call, Classified
from api.errors import Problem, invalid_body
from api.schemas import optional
from batcher.version import own_version

HEADER_LENGTH = b"inference-header-content-length"
_length = struct.Struct("<I")


def split(headers: RequestHeaders, body: bytes) -> tuple[bytes, bytes]:
    """The JSON of a body, and the binary data behind it. Raises Problem 422."""
    if HEADER_LENGTH not in headers.by_name:
        return body, b""
    given = only_value(headers, HEADER_LENGTH)
    if not given.isdigit() or len(given) > MAX_DIGITS or int(given) > len(body):
        raise invalid_body("header_length", "Inference-Header-Content-Length is not the length of the JSON")
    return body[: int(given)], body[int(given) :]


def strings_of(data: bytes, name: str) -> list[str]:
    """The elements of binary data of type BYTES: each is its length in four bytes, then UTF-8.

    Raises Problem 422.
    """
    texts: list[str] = []
    start = 0
    while start < len(data):
        begin = start + _length.size
        size = _length.unpack_from(data, start)[0] if begin <= len(data) else 0
        start = begin + size
        if start > len(data):
            raise invalid_body("tensor", "the binary data ends within an element", name)
        text = data[begin:start].decode("utf-8", "surrogateescape")
        if not is_unicode(text):
            raise invalid_text("string_unicode", NOT_UTF8, name, len(texts))
        texts.append(text)
    return texts


def flat(data: Any) -> Iterable[Any]:
    """The elements of nested lists in row-major order, two levels deep."""
    return chain.from_iterable(part if isinstance(part, list) else (part,) for part in data)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output. `data` holds floats (FP32) or strings (BYTES) in row-major order."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[float] | Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": self.shape, "datatype": self.datatype, "data": self.data}

    def as_binary(self) -> tuple[dict[str, Any], bytes]:
        """The description of the tensor, and its data."""
        if self.datatype == "FP32":
            data = struct.pack(f"<{len(self.data)}f", *self.data)
        else:
            encoded = [str(value).encode() for value in self.data]
            data = b"".join([_length.pack(len(value)) + value for value in encoded])
        described = self.as_json() | {"parameters": {"binary_data_size": len(data)}}
        del described["data"]
        return described, data


SHARED_MEMORY = Annotated[Any, Unsupported("shared memory is not supported")]
SEQUENCES = Annotated[
    Any, Unsupported("sequences are not supported: each text is classified alone", (0, "", False))
]
STRINGS_OR_ROWS = {
    "type": "array",
    "items": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
}
# What MLServer's clients say of BYTES.
STRINGS = Annotated[Any, Unsupported("texts are strings", ("str",))]


class OipTensorParameters(ClosedFields):
    """Parameters that inputs and outputs may have."""

    content_type: STRINGS = None
    shared_memory_region: SHARED_MEMORY = None
    shared_memory_byte_size: SHARED_MEMORY = None
    shared_memory_offset: SHARED_MEMORY = None


class OipInputParameters(OipTensorParameters):
    binary_data_size: Integer | None = None


class OipInput(Fields):
    name: str
    shape: list[Integer] = Field(max_length=8)
    datatype: Annotated[str, WithJsonSchema({"type": "string", "enum": ["BYTES"]})]
    parameters: OipInputParameters = Field(default_factory=OipInputParameters)
    data: Annotated[Any, WithJsonSchema(STRINGS_OR_ROWS)] = optional("Absent if it is behind the JSON")


class OipOutputParameters(OipTensorParameters):
    binary_data: StrictBool | None = None
    classification: Count = Field(default=0, description="Of scores: only this many classes, as text")


_CLASSES_OF_LABEL: dict[str, Any] = {
    "required": ["parameters"],
    "properties": {
        "name": {"const": "label"},
        "parameters": {"required": ["classification"], "properties": {"classification": {"minimum": 1}}},
    },
}


class OipOutput(Fields):
    model_config = ConfigDict(json_schema_extra={"not": _CLASSES_OF_LABEL})

    name: Annotated[str, WithJsonSchema({"type": "string", "enum": ["scores", "label"]})]
    parameters: OipOutputParameters = Field(default_factory=OipOutputParameters)


class OipParameters(ClosedFields):
    timeout: Count | None = Field(default=None, description="Microseconds; 0: none")
    binary_data_output: StrictBool | None = None
    priority: Ignored = None
    sequence_id: SEQUENCES = None
    sequence_start: SEQUENCES = None
    sequence_end: SEQUENCES = None
    content_type: STRINGS = None


class OipRequest(Fields):
    """One input of type BYTES with the texts, as JSON or as binary data behind the JSON."""

    id: str | None = None
    parameters: OipParameters = Field(default_factory=OipParameters)
    inputs: list[OipInput] = Field(min_length=1, max_length=8, json_schema_extra={"maxItems": 1})
    outputs: list[OipOutput] = Field(default_factory=list)


class OipTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[str]


class OipAnswer(BaseModel):
    """`scores` [texts, labels] in label id order, and `label` [texts] with the most probable one."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[OipTensor]


class OipServer(BaseModel):
    name: str
    version: str
    extensions: list[str]


class OipDescription(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class OipModel(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[OipDescription]
    outputs: list[OipDescription]


class OipLive(BaseModel):
    live: bool


class OipReady(BaseModel):
    ready: bool


class OipModelReady(BaseModel):
    name: str
    ready: bool


MICROSECONDS = 1e6
NOT_OFFERED = "Not offered"
OUTPUTS = ("scores", "label")
# A request whose whole body is one text: its outputs are binary.
RAW = OipRequest.model_construct(
    id=None, parameters=OipParameters(binary_data_output=True), inputs=[], outputs=[]
)


# A version of a path that is one of ours, and not a number of Triton's.
_is_revision = re.compile(r"[0-9a-fA-F]{12,64}").fullmatch


def check_version(call: Call, revision: str, within: Any = None) -> None:
    """Raises Problem 404 if the path, or `within` (the body), names another revision than the answer's.

    There is one version, the revision that workers publish. Other names of versions stand for it.
    """
    asked = call.context.headers.scope.get("path_params", {}).get("version", "")
    for version in (asked, within):
        if isinstance(version, str) and _is_revision(version) and not revision.startswith(version.lower()):
            raise Problem(404, f"the version {version} does not answer now, but {revision[:12]}")
    call.ignored += [] if revision.startswith(asked.lower()) else ["version"]


class OpenInferenceProtocol(Dialect):
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        routes = [
            Route("/v2", self._server, "The server and its extensions", answer=OipServer, open=True),
            Route("/v2/health/live", self._live, "Liveness", answer=OipLive, open=True),
            Route("/v2/health/ready", self._ready, "Readiness", answer=OipReady, open=True),
        ]
        routes.append(Route("/v2/models/stats", self._not_offered, NOT_OFFERED))
        infer = "Classify the texts of a tensor"
        for path in ("/v2/models/{model}/versions/{version}", "/v2/models/{model}"):
            routes += [
                Route(f"{path}/{name}", self._not_offered, NOT_OFFERED)
                for name in ("config", "stats", "trace/setting")
            ]
            routes += [
                Route(f"{path}/infer", self._infer, infer, OipRequest, OipAnswer, binary=True),
                Route(f"{path}/ready", self._model_ready, "Readiness of the model", answer=OipModelReady),
                Route(path, self._model, "The model, its inputs and outputs", answer=OipModel),
            ]
        return routes

    async def _server(self, call: Call) -> Answer:
        extensions = ["binary_tensor_data", "classification"]
        return json_answer({"name": "millrace", "version": own_version(), "extensions": extensions})

    async def _live(self, call: Call) -> Answer:
        self.service.check_started()
        return json_answer({"live": True})

    async def _ready(self, call: Call) -> Answer:
        self.service.check_ready(call)
        return json_answer({"ready": True})

    async def _model_ready(self, call: Call) -> Answer:
        self.service.check_ready(call)
        check_version(call, self.service.model(call).revision)
        return json_answer({"name": call.model, "ready": True})

    async def _not_offered(self, call: Call) -> Answer:
        raise Problem(404, f"{route_path(call.context.headers.scope)} is not offered; /docs lists all routes")

    async def _model(self, call: Call) -> Answer:
        model = self.service.model(call)
        check_version(call, model.revision)
        described = {
            "name": call.model,
            "versions": [model.revision[:12]],
            "platform": f"{model.engine}_{model.precision}",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "scores", "datatype": "FP32", "shape": [-1, len(model.labels)]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }
        return json_answer(described)

    async def _infer(self, call: Call) -> Answer:
        asked, texts = await self._read(call)
        wanted_us = asked.parameters.timeout
        # Integers of JSON may have thousands of digits, which a float cannot hold.
        most_us = self.service.settings.max_budget_s * MICROSECONDS
        budget_s = min(wanted_us, most_us) / MICROSECONDS if wanted_us else None
        found = await self.service.classify(call, texts, budget_s)
        check_version(call, found.revision, (asked.__pydantic_extra__ or {}).get("model_version"))
        return _answer(asked, call.model, found)

    async def _read(self, call: Call) -> tuple[OipRequest, list[str]]:
        headers = call.context.headers
        if headers.by_name.get(b"content-type", b"") != BINARY[1]:
            check_json(headers)
        document, data = split(headers, await self.service.read_bytes(call))
        if data and not document:
            return RAW, text_list(strings_of(_length.pack(len(data)) + data, "inputs"), "inputs")
        asked = self.service.parse(call, document, OipRequest)
        names = [output.name for output in asked.outputs]
        if not {*names} <= {*OUTPUTS}:
            raise refused("outputs: the outputs of this model are scores and label", "outputs")
        if any(one.name == "label" and one.parameters.classification for one in asked.outputs):
            raise refused("outputs: classification is for scores; label has the best one", "outputs")
        if twice := [name for name in OUTPUTS if names.count(name) > 1]:
            raise refused(f"outputs: {twice[0]} is requested more than once", "outputs")
        return asked, _texts(asked, data)


def _texts(asked: OipRequest, data: bytes) -> list[str]:
    """The texts of the one input, which may have any name. Raises Problem 422."""
    if len(asked.inputs) > 1:
        raise refused(
            "inputs: this model has one input of type BYTES; token ids and masks are not accepted", "inputs"
        )
    given = asked.inputs[0]
    if given.datatype != "BYTES":
        raise refused("inputs: the datatype must be BYTES; token ids are not accepted", "inputs")
    if given.parameters.binary_data_size is not None:
        if given.data is not None:
            raise refused("inputs: data and binary_data_size are both given: send one of them", "inputs")
        if given.parameters.binary_data_size != len(data):
            raise refused("inputs: binary_data_size is not the size of the binary data", "inputs")
        values: list[Any] = list(strings_of(data, "inputs"))
    elif data:
        raise refused("inputs: there is binary data behind the JSON, and no binary_data_size", "inputs")
    elif isinstance(given.data, list):
        values = list(flat(given.data))
    else:
        raise refused("inputs: data must be a list of strings", "inputs")
    texts = text_list(values, "inputs")
    if min(given.shape, default=-1) < 0 or prod(given.shape) != len(texts):
        raise refused("inputs: the shape is not that of the data; it must be [n] or [n, 1]", "inputs")
    if any(size != 1 for size in given.shape[1:]):
        raise refused("inputs: the shape must be [n] or [n, 1]; pairs of texts are not supported", "inputs")
    return texts


def _answer(asked: OipRequest, name: str, found: Classified) -> Answer:
    wanted = asked.outputs or [OipOutput(name="scores"), OipOutput(name="label")]
    document: dict[str, Any] = {
        "model_name": name,
        "model_version": found.revision[:12],
        "parameters": {"tokens": sum(found.tokens), "truncated": sum(found.truncated)},
        "outputs": [],
    }
    if asked.id is not None:
        document["id"] = asked.id
    data: list[bytes] = []
    for output in wanted:
        tensor = _tensor(output, found)
        binary_data = output.parameters.binary_data
        if asked.parameters.binary_data_output if binary_data is None else binary_data:
            described, binary = tensor.as_binary()
            data.append(binary)
        else:
            described = tensor.as_json()
        document["outputs"].append(described)
    answer = json_answer(document, found.headers)
    if not data:
        return answer
    length = HEADER_LENGTH, b"%d" % len(answer.body)
    return Answer(200, [*answer.headers, length, BINARY], b"".join([answer.body, *data]))


def _tensor(output: OipOutput, found: Classified) -> Tensor:
    rows = found.scores
    count = output.parameters.classification
    if output.name == "label":
        return Tensor("label", "BYTES", [len(rows)], [max(row, key=lambda pair: pair[1])[0] for row in rows])
    if not count:
        scores = [score for row in rows for _, score in row]
        return Tensor("scores", "FP32", [len(rows), len(rows[0])], scores)
    classes = [_classes(row, count) for row in rows]
    return Tensor("scores", "BYTES", [len(rows), len(classes[0])], list(chain.from_iterable(classes)))


def _classes(row: Sequence[tuple[str, float]], count: int) -> list[str]:
    """The most probable classes in the form of Triton: score, index and label."""
    numbered = sorted(enumerate(row), key=lambda item: -item[1][1])[:count]
    return [f"{score:f}:{number}:{label}" for number, (label, score) in numbered]
