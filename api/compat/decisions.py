"""Experimental: OpenAI's `POST /v1/decisions`, which is a young beta.

A classifier decides between its labels. A question whose options are labels, or other names for labels by
`MILLRACE_QUESTIONS`, is answered with their probabilities. Others get a refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, WithJsonSchema

from api.asgi.http import Answer
from api.compat.dialect import Route, json_answer
from api.compat.fields import ClosedFields, Ignored
from api.compat.openai_error import OpenAIDialect
from api.compat.reading import refuse_others, refused, text_of_part
from api.compat.service import Call


class Labels:
    """The scores of one text, found by labels or their other names.

    Case matters only where names differ in nothing else: then a name must be written as one of them.
    """

    def __init__(self, scores: Iterable[tuple[str, float]], names: Mapping[str, Sequence[str]]) -> None:
        self._scores = dict(scores)
        others = [(name, label) for label in self._scores for name in names.get(label, ())]
        labels = [(label, label) for label in self._scores]
        # Where to look, in this order: a label goes before another name, and what is written the same before
        # what differs in case. A name may stand for several labels.
        self._places = [_grouped(pairs) for pairs in (labels, _folded(labels), others, _folded(others))]

    def find(self, name: str) -> str | None:
        """The label of this name; None if it is unknown, or stands for several labels."""
        for place, key in zip(self._places, (name, name.casefold()) * 2, strict=True):
            if found := place.get(key):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def one(self, *names: str | None) -> float | None:
        """The score of the one label that these names stand for, as far as they are known; otherwise None."""
        labels = {self.find(name) for name in names if name} - {None}
        label = labels.pop() if len(labels) == 1 else None
        return None if label is None else self._scores[label]

    def several(self, names: Sequence[str]) -> list[float] | None:
        """The probabilities of options, which sum to 1. None if one is unknown, or two are the same label."""
        labels = [self.find(name) for name in names]
        if None in labels or len(set(labels)) < max(2, len(labels)):
            return None
        scores = [self._scores[label] for label in labels if label is not None]
        total = sum(scores)
        return [round(score / total, 7) if total else 1 / len(scores) for score in scores]


def _folded(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return [(name.casefold(), label) for name, label in pairs]


def _grouped(pairs: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    grouped: dict[str, set[str]] = {}
    for name, label in pairs:
        grouped.setdefault(name, set()).add(label)
    return grouped


def confidence(probabilities: Sequence[float]) -> float:
    """0 if all options are equally probable, 1 if one is certain."""
    count = len(probabilities)
    return round((count * max(probabilities) - 1) / (count - 1), 7)


def mean(probabilities: Sequence[float]) -> float:
    """The expected number of the option, from 0."""
    return round(sum(number * probability for number, probability in enumerate(probabilities)), 7)


MAX_QUESTIONS = 400
MAX_OPTIONS = 255


class Predicate(ClosedFields):
    """Yes or no: `name` or `instructions` is a label."""

    type: Literal["predicate"]
    name: str | None = None
    instructions: str = ""


class Option(ClosedFields):
    value: str | StrictBool
    description: Ignored = None


class Choice(ClosedFields):
    type: Literal["choice"]
    name: str | None = None
    instructions: Ignored = None
    choices: list[Option] = Field(min_length=2, max_length=MAX_OPTIONS)


class Level(ClosedFields):
    label: str
    description: Ignored = None


class Scale(ClosedFields):
    type: Literal["score"]
    name: str | None = None
    instructions: Ignored = None
    levels: list[Level] = Field(min_length=2, max_length=MAX_OPTIONS)


Question = Annotated[Predicate | Choice | Scale, Field(discriminator="type")]


_ONE = {"minItems": 1, "maxItems": 1}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "additionalProperties": False,
    "properties": {"type": {"type": "string", "enum": ["input_text"]}, "text": {"type": "string"}},
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "enum": ["message"]},
        "role": {"type": "string", "enum": ["user"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, **_ONE}]},
    },
}
TEXT_OR_MESSAGE = {"anyOf": [{"type": "string"}, {"type": "array", "items": _MESSAGE, **_ONE}]}


class DecisionRequest(ClosedFields):
    """`input` is a text, or one user message with a text."""

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(TEXT_OR_MESSAGE)]
    questions: list[Question] = Field(min_length=1, max_length=MAX_QUESTIONS)
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    safety_identifier: Ignored = None


class DecisionAnswer(BaseModel):
    model: str
    answers: list[dict[str, Any]]
    usage: dict[str, Any]


class Decisions(OpenAIDialect):
    def routes(self) -> Sequence[Route]:
        summary = "Experimental: answer questions whose options are labels, as OpenAI's decisions"
        return [Route("/v1/decisions", self._decide, summary, DecisionRequest, DecisionAnswer)]

    async def _decide(self, call: Call) -> Answer:
        asked = await self.service.read(call, DecisionRequest)
        call.served = self.service.find(asked.model)
        found = await self.service.classify(call, [_text(asked.input)])
        labels = Labels(found.scores[0], self.service.settings.questions)
        answers = [
            _decision(question, labels) or {"type": "refusal", "name": question.name}
            for question in asked.questions
        ]
        tokens = sum(found.tokens)
        usage = {
            "input_tokens": tokens,
            "input_tokens_details": {
                "cached_tokens": 0 if found.computed else tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        }
        return json_answer({"model": found.model, "answers": answers, "usage": usage}, found.headers)


def _text(given: Any) -> str:
    """The text of an input: a string, or one user message with one text. Raises Problem 422."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        message = given[0]
        refuse_others(message, ("type", "role", "content"), "input")
        is_message = message.get("role") == "user" and message.get("type", "message") == "message"
        given = message.get("content") if is_message else None
        if isinstance(given, list) and len(given) == 1:
            return text_of_part(given[0], "input_text", "input")
    if not isinstance(given, str):
        raise refused("input: must be a string, or one user message with one text", "input")
    return given


def _decision(question: Predicate | Choice | Scale, labels: Labels) -> dict[str, Any] | None:
    """The answer; None if the options are not labels."""
    head = {"type": question.type, "name": question.name}
    if isinstance(question, Predicate):
        probability = labels.one(question.name, question.instructions)
        return None if probability is None else {**head, "probability": probability}
    if isinstance(question, Choice):
        values = [option.value for option in question.choices]
        found = labels.several(list(map(str, values)))
        if found is None:
            return None
        pairs = [{"value": value, "probability": p} for value, p in zip(values, found, strict=True)]
        best = values[found.index(max(found))]
        return {**head, "choice": best, "probabilities": pairs, "confidence": confidence(found)}
    names = [level.label for level in question.levels]
    found = labels.several(names)
    if found is None:
        return None
    levels = [
        {"label": name, "probability": p, "value": number}
        for number, (name, p) in enumerate(zip(names, found, strict=True))
    ]
    return {**head, "score": mean(found), "probabilities": levels, "confidence": confidence(found)}
