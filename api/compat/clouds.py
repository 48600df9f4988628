"""Containers on SageMaker (`/ping`, `/invocations`) and Vertex AI, whose environment names the routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, RootModel, WithJsonSchema

from api.asgi.http import PROBES, Answer
from api.asgi.ignored import MODEL_NAMES, plain
from api.compat.dialect import Alive, Dialect, Route, json_answer
from api.compat.fields import Fields
from api.compat.huggingface import HuggingFaceParameters, HuggingFaceRequest, as_asked, check_cache
from api.compat.reading import (
    NAMES,
    TextList,
    TextOrTexts,
    invalid_text,
    only_value,
    refused,
    text_list,
    texts_of,
)
from api.compat.service import Call
from api.errors import invalid_body
from api.predict.request import joined
from api.schemas import LabelScore, optional

# The keys under which an instance that is an object may have its text.
TEXT_KEYS = ("text", "inputs", "content")
# By `plain` names, what would have no effect within an instance: fields that belong beside instances, and
# those that are not supported unless their value asks for what happens anyway.
BESIDE = (*MODEL_NAMES, *map(plain, ("parameters", *HuggingFaceParameters.model_fields)))
UNSUPPORTED_WITHIN = {"rawscores": (False,), "truncate": (True,), "truncationdirection": ("right", "Right")}
# The header that names one of several models of an endpoint.
TARGET = b"x-amzn-sagemaker-target-model"


class Invocation(HuggingFaceRequest):
    """Either `inputs`, as containers for transformers read it, or `text`, as /predict does."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["inputs"]}, {"required": ["text"]}]})

    inputs: TextOrTexts = optional()
    text: TextList = optional()


class InvocationAnswer(RootModel[list[LabelScore] | list[list[LabelScore]] | dict[str, Any]]):
    """Labels, the most probable first: a list for one text, a list of lists for several. With `text`, the
    answer of /predict."""


_ITEMS = [
    {"type": "string"},
    *({"type": "object", "required": [key], "properties": {key: {"type": "string"}}} for key in TEXT_KEYS),
]


class Instances(Fields):
    """Each instance is a text, or an object with it as `text`, `inputs` or `content`."""

    instances: Annotated[
        list[Any], WithJsonSchema({"type": "array", "items": {"oneOf": _ITEMS}, "minItems": 1})
    ]
    parameters: HuggingFaceParameters | None = None


class InstancesAnswer(BaseModel):
    """One list per instance: labels with their scores, the most probable first."""

    predictions: list[list[LabelScore]]


class SageMaker(Dialect):
    def routes(self) -> Sequence[Route]:
        invoke = "Classify texts as a SageMaker endpoint does"
        return [
            Route("/ping", self.ready, "Readiness for SageMaker", answer=Alive, open=True),
            Route("/invocations", self._invoke, invoke, Invocation, InvocationAnswer),
        ]

    async def _invoke(self, call: Call) -> Answer:
        asked = await self.service.read(call, Invocation)
        check_cache(call)
        call.served = self.service.find(only_value(call.context.headers, TARGET).decode("latin-1"))
        if len(asked.model_fields_set & {"inputs", "text"}) != 1:
            raise invalid_body("missing", 'exactly one of the fields "inputs" and "text" is needed', "inputs")
        if "text" in asked.model_fields_set:
            if asked.parameters is not None and asked.parameters.model_fields_set:
                raise refused("parameters are for inputs: text is answered as by /predict", "parameters")
            found = await self.service.classify(call, text_list(asked.text, "text"))
            ordered = self.service.settings.label_order == "score"
            return Answer(200, [*found.headers], joined(found.results, ordered=ordered))
        found = await self.service.classify(call, texts_of(asked.inputs, "inputs"))
        answers = as_asked(asked.parameters, found)
        single = isinstance(asked.inputs, str)
        return json_answer(next(answers) if single else answers, [*found.headers, found.tokens_header])


class Vertex(Dialect):
    """Its routes may be those of other services: /predict is shared, and /health stays unchanged."""

    def routes(self) -> Sequence[Route]:
        settings = self.service.settings
        predict = "Classify instances as a Vertex AI endpoint does"
        ready = Route(settings.vertex_health, self.ready, "Readiness for Vertex AI", answer=Alive, open=True)
        return [
            *([] if ready.path in PROBES else [ready]),
            Route(settings.vertex_predict, self._predict, predict, Instances, InstancesAnswer),
        ]

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, Instances)
        texts = text_list([_text(one, index) for index, one in enumerate(asked.instances)], "instances")
        objects = (one for one in asked.instances if isinstance(one, dict))
        call.ignored += [f"instances.{key}" for one in objects for key in one if key not in TEXT_KEYS]
        found = await self.service.classify(call, texts)
        answer = {"predictions": as_asked(asked.parameters, found)}
        return json_answer(answer, [*found.headers, found.tokens_header])


def _text(instance: Any, index: int) -> Any:
    """The text of an instance. Raises Problem 422 for an object without one, or with several."""
    if not isinstance(instance, dict):
        return instance
    found = [key for key in instance if key.lower() in (*TEXT_KEYS, *NAMES)]
    if len(found) != 1 or found[0] not in TEXT_KEYS:
        keys = ", ".join(TEXT_KEYS)
        raise invalid_text("missing", f"an object must have one of the keys {keys}", "instances", index)
    for name, value in instance.items():
        if plain(name) in BESIDE:
            raise refused(f"{name} must be beside instances, not in one of them", "instances")
        if value is not None and value not in UNSUPPORTED_WITHIN.get(plain(name), (value,)):
            raise refused(f"{name} is not supported in an instance", "instances")
    return instance[found[0]]
