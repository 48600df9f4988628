"""Hugging Face inference: `POST /` and `POST /models/{model}`, for `InferenceClient.text_classification`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from api.asgi.http import Answer
from api.compat.dialect import Dialect, Route, json_answer
from api.compat.reading import TextOrTexts, refused, sentence, texts_of
from api.compat.service import Call, Scores
from api.errors import Problem
from api.schemas import LabelScore
from batcher.core.snapshot import ModelRecord
from batcher.errors import RevisionsMixed


class HuggingFaceParameters(BaseModel):
    top_k: int | None = Field(
        default=None, ge=1, description="Only this many labels, the most probable first"
    )
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    candidate_labels: Any = Field(default=None, exclude=True, json_schema_extra={"deprecated": True})


class HuggingFaceRequest(BaseModel):
    inputs: TextOrTexts
    parameters: HuggingFaceParameters | None = None


class HuggingFaceAnswer(RootModel[list[list[LabelScore]]]):
    """One list per text: labels with their scores, the most probable first."""


class HuggingFaceError(BaseModel):
    error: str


class HuggingFace(Dialect):
    """Answers are nested also for one text, because the clients take the first element."""

    error = HuggingFaceError

    def routes(self) -> Sequence[Route]:
        summary = "Classify texts as a Hugging Face endpoint does"
        return [
            Route(path, self._classify, summary, HuggingFaceRequest, HuggingFaceAnswer)
            for path in ("/", "/models/{model:path}")
        ]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return HuggingFaceError(error=sentence(problem))

    async def _classify(self, call: Call) -> Answer:
        asked = await self.service.read(call, HuggingFaceRequest)
        parameters = asked.parameters or HuggingFaceParameters()
        if parameters.candidate_labels is not None:
            raise refused(
                "candidate_labels: zero-shot classification is not supported by this model", "parameters"
            )
        found = await self.service.classify(call, texts_of(asked.inputs, "inputs"))
        if parameters.function_to_apply is not None:
            check_function(parameters.function_to_apply, found.record)
        answer = (best_first(scores, parameters.top_k) for scores in found.scores)
        return json_answer(answer, [*found.headers, found.tokens_header])


def best_first(scores: Scores, most: int | None = None) -> list[dict[str, Any]]:
    """Labels and scores as objects, the most probable first."""
    ordered = sorted(scores, key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in ordered[:most]]


def check_function(wanted: str, model: ModelRecord | None) -> None:
    """Raises Problem 422 unless the scores are what `wanted` makes of the logits of the model that answered.

    The service knows scores only, and logits cannot be computed from rounded scores. Raises RevisionsMixed if
    what the model applies is not known.
    """
    if model is None:
        raise RevisionsMixed(
            "a revision answered that this process does not know yet, and so not which function its scores "
            "come from; try again shortly"
        )
    given = "sigmoid" if model.multi_label else "softmax"
    if wanted != given:
        raise refused(f'function_to_apply "{wanted}" is not supported: the scores of this model are {given}')
