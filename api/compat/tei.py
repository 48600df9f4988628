"""text-embeddings-inference: bodies of `POST /predict` with `inputs`, and `GET /info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, RootModel, StrictBool, WithJsonSchema

from api.asgi.http import Answer
from api.compat.dialect import Alive, Dialect, Route, json_answer
from api.compat.fields import Fields, Unsupported
from api.compat.huggingface import best_first
from api.compat.reading import refused, sentence, text_list
from api.compat.service import Call, Classified
from api.errors import Problem
from api.predict.handler import ROUTE
from api.schemas import LabelScore
from batcher.version import own_version

_STATUSES = {413: 422, 500: 424}
_TYPES = {422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy", 504: "Backend"}
NO_TOKENS = (
    "tokenize is not supported: only workers have the model's tokenizer. "
    "The header x-compute-tokens of /predict counts the tokens of texts"
)
PAIR = "inputs: pairs of texts are not supported; a batch is a list of lists with one text each"


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class TeiRequest(Fields):
    inputs: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
                    },
                ]
            }
        ),
    ]
    truncate: StrictBool | None = None
    # Clients write "Left", too.
    truncation_direction: Annotated[Literal["left", "right"] | None, BeforeValidator(_lower)] = None
    raw_scores: Annotated[Any, Unsupported("logits are not available, only scores", (False,))] = None
    parameters: Annotated[Any, Unsupported("only POST / has parameters", ({},))] = None
    options: Annotated[Any, Unsupported("only POST / has options", ({},))] = None


class TokenizeRequest(BaseModel):
    inputs: Any


class TeiAnswer(RootModel[list[LabelScore] | list[list[LabelScore]]]):
    """Labels with their scores, the most probable first. A list for one text, a list of lists for a batch."""


class TeiError(BaseModel):
    error: str
    error_type: str


class TeiClassifier(BaseModel):
    id2label: dict[str, str]
    label2id: dict[str, int]


class TeiModelType(BaseModel):
    classifier: TeiClassifier


class TeiInfo(BaseModel):
    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: TeiModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


class TextEmbeddingsInference(Dialect):
    """Shares the route /predict, where the key of the body decides."""

    error = TeiError
    statuses = _STATUSES
    more_statuses: ClassVar = {400: "There is no text"}

    def routes(self) -> Sequence[Route]:
        return [
            Route(ROUTE, self._predict, "Classify texts", TeiRequest, TeiAnswer),
            Route("/info", self._info, "The model and the limits", answer=TeiInfo),
            Route("/models/{model}/info", self._info, "A model and the limits", answer=TeiInfo),
            Route("/ping", self.ready, "Health", answer=Alive, open=True),
            Route("/", self.ready, "Health", answer=Alive, open=True, beside_page=True),
            Route("/tokenize", self._tokenize, "Not supported", TokenizeRequest),
        ]

    def status_of(self, problem: Problem) -> int:
        return 400 if _is_empty(problem) else super().status_of(problem)

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        kind = "Empty" if _is_empty(problem) else _TYPES.get(status, "Validation")
        return TeiError(error=sentence(problem), error_type=kind)

    async def _info(self, call: Call) -> Answer:
        model = self.service.model(call)
        settings = self.service.settings
        labels = dict(enumerate(model.labels))
        numbers = {label: number for number, label in labels.items()}
        info = {
            "model_id": model.name,
            "model_sha": model.revision,
            "model_dtype": {"f32": "float32", "bf16": "bfloat16"}.get(model.precision, model.precision),
            "served_model_name": model.name,
            "model_type": {"classifier": {"id2label": labels, "label2id": numbers}},
            "max_concurrent_requests": settings.max_connections,
            "max_input_length": model.longest,
            "max_batch_tokens": settings.max_waiting_cost,
            "max_client_batch_size": settings.max_texts,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": own_version(),
        }
        return json_answer(info)

    async def _tokenize(self, call: Call) -> Answer:
        raise refused(NO_TOKENS)

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, TeiRequest)
        texts = _texts(asked.inputs)
        batch = any(isinstance(part, list) for part in asked.inputs)
        found = await self.service.classify(call, texts)
        _check_truncation(asked, found)
        answers = map(best_first, found.scores)
        return json_answer(answers if batch else next(answers), [*found.headers, *found.time_headers])


def _is_empty(problem: Problem) -> bool:
    return not isinstance(problem.detail, str) and problem.detail[0]["type"] == "too_short"


def _texts(inputs: Any) -> list[str]:
    """The texts of a request: "a" and ["a"] are one text, [["a"], ["b"]] is a batch of two."""
    if isinstance(inputs, str):
        return [inputs]
    if not isinstance(inputs, list):
        raise refused("inputs: must be a string, or a list of lists with one string each", "inputs")
    if any(isinstance(part, list) for part in inputs):
        if any(isinstance(part, list) and len(part) > 1 for part in inputs):
            raise refused(PAIR, "inputs")
        inputs = [part[0] if isinstance(part, list) and part else part for part in inputs]
    elif len(inputs) > 1:
        raise refused(PAIR, "inputs")
    return text_list(inputs, "inputs")


def _check_truncation(asked: TeiRequest, found: Classified) -> None:
    """Raises Problem 422 if a text was cut although the client did not want that, or not at this end."""
    if True not in found.truncated:
        return
    index = found.truncated.index(True)
    if asked.truncate is False:
        most = found.record.longest if found.record else found.tokens[index]
        raise refused(
            f"text {index} is longer than the {most} tokens that the model can read, and truncate is false"
        )
    if asked.truncation_direction == "left":
        raise refused(f"text {index} is too long, and truncation_direction left is not supported")
