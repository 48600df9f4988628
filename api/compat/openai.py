"""OpenAI's moderations: `POST /v1/moderations`. A setting maps the model's labels to categories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from api.asgi.http import Answer
from api.compat.dialect import BAD_REQUEST, Dialect, Route, json_answer
from api.compat.openai_error import OpenAIError, openai_error
from api.compat.reading import TextOrTexts, refused, texts_of
from api.compat.road import Call, Scores
from api.errors import Problem

# The categories that OpenAI's clients expect in every result.
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_NOT_FLAGGED = dict.fromkeys(CATEGORIES, False)
_NO_SCORES = dict.fromkeys(CATEGORIES, 0.0)
_TEXT = {name: ["text"] for name in CATEGORIES}


class ModerationRequest(BaseModel):
    input: TextOrTexts
    model: str | None = None


class ModerationResult(BaseModel):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationAnswer(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]


class OpenAI(Dialect):
    error = OpenAIError
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        summary = "Moderate texts: labels as OpenAI's categories"
        return [Route("/v1/moderations", self._moderate, summary, ModerationRequest, ModerationAnswer)]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return openai_error(problem, status)

    async def _moderate(self, call: Call) -> Answer:
        asked = await self.road.read(call, ModerationRequest)
        self.road.check_model(asked.model)
        categories = self._categories()
        found = await self.road.classify(call, _texts(asked.input))
        threshold = self.road.settings.moderation_threshold
        answer = {
            "id": f"modr-{call.context.headers.id}",
            "model": found.model,
            "results": [_result(scores, categories, threshold) for scores in found.scores],
        }
        return json_answer(answer, [*found.headers, found.tokens_header])

    def _categories(self) -> Mapping[str, str]:
        """The category of each label that has one. Raises Problem 400 if none has."""
        labels = self.road.model.labels
        given = self.road.settings.moderation_categories
        found = given or {label: name for label in labels if (name := _plain(label)) in CATEGORIES}
        if not any(label in found for label in labels):
            detail = (
                f"the labels of this model are not categories of moderation ({', '.join(labels[:16])}); "
                "MILLRACE_MODERATION_LABELS maps them"
            )
            raise refused(detail)
        return found


def _plain(label: str) -> str:
    """A label in the spelling of the categories: self_harm becomes self-harm."""
    return re.sub(r"[_\s]", "-", label.lower())


def _texts(given: Any) -> list[str]:
    """The texts; a list of parts is one input, of which the text is used. Raises Problem 400."""
    if isinstance(given, list) and given and isinstance(given[0], dict):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in given):
            raise refused("input: images are not supported, only parts of type text", "input")
        if len(given) > 1:
            raise refused(
                "input: more than one part of type text is not supported; send a list of strings", "input"
            )
        given = given[0].get("text")
    return texts_of(given, "input")


def _result(scores: Scores, categories: Mapping[str, str], threshold: float) -> dict[str, Any]:
    """One result. A category that several labels map to has the highest of their scores."""
    given: dict[str, float] = {}
    for label, score in scores:
        if (name := categories.get(label)) is not None:
            given[name] = max(score, given.get(name, 0.0))
    flags = {name: score >= threshold for name, score in given.items()}
    return {
        "flagged": True in flags.values(),
        "categories": _NOT_FLAGGED | flags,
        "category_scores": _NO_SCORES | given,
        "category_applied_input_types": _TEXT | {name: ["text"] for name in given},
    }
