"""text-embeddings-inference: bodies of `POST /predict` with `inputs`, and `GET /info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, RootModel, WithJsonSchema

from api.asgi.http import Answer
from api.compat.dialect import Dialect, Route, json_answer
from api.compat.huggingface import best_first
from api.compat.reading import refused, sentence, text_list
from api.compat.service import Call, Classified
from api.errors import Header, Problem
from api.predict.handler import ROUTE
from api.schemas import LabelScore
from batcher.core.metrics import own_version

_STATUSES = {413: 422, 500: 424}
_TYPES = {422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy", 504: "Backend"}
NO_TOKENS = (
    "tokenize is not supported: only workers have the model's tokenizer. "
    "The header x-compute-tokens of /predict counts the tokens of texts"
)
PAIR = "inputs: pairs of texts are not supported; a batch is a list of lists with one text each"


class TeiRequest(BaseModel):
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
    truncate: bool | None = None
    truncation_direction: Literal["left", "Left", "right", "Right"] | None = None
    raw_scores: bool | None = None


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

    def routes(self) -> Sequence[Route]:
        return [
            Route(ROUTE, self._predict, "Classify texts", TeiRequest, TeiAnswer),
            Route("/info", self._info, "The model and the limits", answer=TeiInfo),
            Route("/tokenize", self._tokenize, "Not supported", TokenizeRequest),
        ]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        empty = (
            problem.status == 422
            and not isinstance(problem.detail, str)
            and problem.detail[0]["type"] == "too_short"
        )
        return TeiError(
            error=sentence(problem), error_type="Empty" if empty else _TYPES.get(status, "Validation")
        )

    async def _info(self, call: Call) -> Answer:
        model = self.service.model(call)
        settings = self.service.settings
        labels = {str(number): label for number, label in enumerate(model.labels)}
        info = TeiInfo(
            model_id=model.name,
            model_sha=model.revision,
            model_dtype={"f32": "float32", "bf16": "bfloat16"}.get(model.precision, model.precision),
            served_model_name=model.name,
            model_type=TeiModelType(
                classifier=TeiClassifier(
                    id2label=labels, label2id={label: int(number) for number, label in labels.items()}
                )
            ),
            max_concurrent_requests=settings.max_connections,
            max_input_length=model.max_tokens,
            max_batch_tokens=settings.max_waiting_cost,
            max_client_batch_size=settings.max_texts,
            auto_truncate=True,
            tokenization_workers=1,
            version=own_version(),
        )
        return json_answer(info.model_dump())

    async def _tokenize(self, call: Call) -> Answer:
        raise refused(NO_TOKENS)

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, TeiRequest)
        texts = _texts(asked.inputs)
        batch = any(isinstance(part, list) for part in asked.inputs)
        if asked.raw_scores:
            raise refused("raw_scores: logits are not available, only scores")
        found = await self.service.classify(call, texts)
        _check_truncation(asked, found)
        answers = map(best_first, found.scores)
        return json_answer(answers if batch else next(answers), [*found.headers, *_timings(found)])


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
        detail = f"text {index} is longer than the {found.tokens[index]} tokens that the model can read"
        raise refused(f"{detail}, and truncate is false")
    if asked.truncation_direction in ("left", "Left"):
        raise refused(f"text {index} is too long, and truncation_direction left is not supported")


def _timings(found: Classified) -> list[Header]:
    """The headers of text-embeddings-inference; times in milliseconds, the slowest of all texts."""

    def slowest(name: str) -> int:
        return round(max((getattr(run, name) for run in found.computed), default=0.0))

    figures = {
        b"x-compute-characters": sum(map(len, found.texts)),
        b"x-compute-tokens": sum(found.tokens),
        b"x-compute-time": round(found.total_s * 1e3),
        b"x-total-time": round(found.total_s * 1e3),
        b"x-tokenization-time": slowest("tokenize_ms"),
        b"x-queue-time": slowest("queue_ms"),
        b"x-inference-time": slowest("model_ms"),
    }
    return [(name, b"%d" % figure) for name, figure in figures.items()]
