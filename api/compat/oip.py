"""Open Inference Protocol v2, as KServe and Triton speak it over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

from pydantic import BaseModel

from api.asgi.http import Answer, check_json, route_path
from api.compat.dialect import BAD_REQUEST, BINARY, Dialect, Route, json_answer
from api.compat.oip_schemas import (
    OipAnswer,
    OipDescription,
    OipError,
    OipLive,
    OipModel,
    OipModelReady,
    OipOutput,
    OipParameters,
    OipReady,
    OipRequest,
    OipServer,
)
from api.compat.reading import refused, sentence, text_list
from api.compat.service import Call, Classified
from api.compat.tensors import HEADER_LENGTH, Tensor, as_element, flat, split, strings_of
from api.errors import Problem
from batcher.version import own_version

MICROSECONDS = 1e6
NOT_OFFERED = "Not offered"
OUTPUTS = ("scores", "label")
# A request whose whole body is one text: its outputs are binary.
RAW = OipRequest.model_construct(
    id=None, parameters=OipParameters(binary_data_output=True), inputs=[], outputs=[]
)
# Integers of JSON may have thousands of digits, which a float cannot hold.
MAX_US = 10**15


class OpenInferenceProtocol(Dialect):
    """The version in a path is not checked: there is one, the revision that workers publish."""

    error = OipError
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        routes = [
            Route("/v2", self._server, "The server and its extensions", answer=OipServer, open=True),
            Route("/v2/health/live", self._live, "Liveness", answer=OipLive, open=True),
            Route("/v2/health/ready", self._ready, "Readiness", answer=OipReady, open=True),
        ]
        routes.append(Route("/v2/models/stats", self._not_offered, NOT_OFFERED))
        for path in ("/v2/models/{model}/versions/{version}", "/v2/models/{model}"):
            routes += [
                Route(f"{path}/{name}", self._not_offered, NOT_OFFERED)
                for name in ("config", "stats", "trace/setting")
            ]
            routes += [
                Route(f"{path}/infer", self._infer, "Classify the texts of a tensor", OipRequest, OipAnswer),
                Route(f"{path}/ready", self._model_ready, "Readiness of the model", answer=OipModelReady),
                Route(path, self._model, "The model, its inputs and outputs", answer=OipModel),
            ]
        return routes

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return OipError(error=sentence(problem))

    async def _server(self, call: Call) -> Answer:
        extensions = ["binary_tensor_data", "classification"]
        return json_answer({"name": "millrace", "version": own_version(), "extensions": extensions})

    async def _live(self, call: Call) -> Answer:
        return json_answer({"live": True})

    async def _ready(self, call: Call) -> Answer:
        self.service.check_ready(self.service.hub)
        return json_answer({"ready": True})

    async def _model_ready(self, call: Call) -> Answer:
        self.service.check_ready(self.service.served(call).hub)
        return json_answer({"name": call.model, "ready": True})

    async def _not_offered(self, call: Call) -> Answer:
        raise Problem(404, f"{route_path(call.context.headers.scope)} is not offered; /docs lists all routes")

    async def _model(self, call: Call) -> Answer:
        model = self.service.model(call)
        outputs = [
            OipDescription(name="scores", datatype="FP32", shape=[-1, len(model.labels)]),
            OipDescription(name="label", datatype="BYTES", shape=[-1]),
        ]
        described = OipModel(
            name=call.model,
            versions=[model.revision[:12]],
            platform=f"{model.engine}_{model.precision}",
            inputs=[OipDescription(name="text", datatype="BYTES", shape=[-1])],
            outputs=outputs,
        )
        return json_answer(described.model_dump())

    async def _infer(self, call: Call) -> Answer:
        asked, texts = await self._read(call)
        wanted_us = asked.parameters.timeout
        if wanted_us is not None and (type(wanted_us) is not int or wanted_us < 0):
            raise refused("timeout: must be a whole number of microseconds; 0 is none", "parameters")
        budget_s = self.service.budget_s(min(wanted_us, MAX_US) / MICROSECONDS) if wanted_us else None
        found = await self.service.classify(call, texts, budget_s)
        return _answer(asked, call.model, found)

    async def _read(self, call: Call) -> tuple[OipRequest, list[str]]:
        headers = call.context.headers
        if headers.by_name.get(b"content-type", b"") != BINARY[1]:
            check_json(headers)
        document, data = split(headers, await self.service.read_bytes(call))
        if data and not document:
            return RAW, text_list(strings_of(as_element(data), "inputs"), "inputs")
        asked = self.service.parse(call, document, OipRequest)
        names = [output.name for output in asked.outputs]
        if not {*names} <= {*OUTPUTS}:
            raise refused("outputs: the outputs of this model are scores and label", "outputs")
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
