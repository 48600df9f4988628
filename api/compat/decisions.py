"""Experimental: OpenAI's `POST /v1/decisions` and System One's `POST /v1/systemone`, which are young betas.

A classifier decides between its labels. A question whose options are labels, or other names for labels by
`MILLRACE_QUESTIONS`, is answered with their probabilities. Others get a refusal, or 422.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.asgi.http import Answer
from api.compat.dialect import Dialect, Route, json_answer
from api.compat.label_names import Labels, confidence, mean
from api.compat.openai_error import OpenAIError, openai_error
from api.compat.reading import refused
from api.compat.service import Call, Classified
from api.errors import Problem

MOST_QUESTIONS = 400
MOST_OPTIONS = 255


class Predicate(BaseModel):
    """Yes or no: `name` or `instructions` is a label."""

    type: Literal["predicate"]
    name: str | None = None
    instructions: str = ""


class Option(BaseModel):
    value: str | bool


class Choice(BaseModel):
    type: Literal["choice"]
    name: str | None = None
    choices: list[Option] = Field(min_length=2, max_length=MOST_OPTIONS)


class Level(BaseModel):
    label: str


class Scale(BaseModel):
    type: Literal["score"]
    name: str | None = None
    levels: list[Level] = Field(min_length=2, max_length=MOST_OPTIONS)


Question = Annotated[Predicate | Choice | Scale, Field(discriminator="type")]


class DecisionRequest(BaseModel):
    """`input` is a text, or one user message with a text."""

    model: str | None = None
    input: Any
    questions: list[Question] = Field(min_length=1, max_length=MOST_QUESTIONS)


class DecisionAnswer(BaseModel):
    model: str
    answers: list[dict[str, Any]]
    usage: dict[str, Any]


class SystemOneQuestion(BaseModel):
    """`criteria` of a choice are a map whose keys are the options, and of a score a list of them."""

    type: Literal["noul", "choice", "score"]
    instructions: str = ""
    criteria: dict[str, str | None] | list[str] = Field(default_factory=list)


class SystemOneRequest(BaseModel):
    model: str | None = None
    state: Any
    questions: dict[str, SystemOneQuestion] = Field(min_length=1, max_length=MOST_QUESTIONS)


class SystemOneAnswer(BaseModel):
    model: str
    answers: dict[str, dict[str, Any]]
    usage: dict[str, int]


class Decisions(Dialect):
    error = OpenAIError

    def routes(self) -> Sequence[Route]:
        decide = "Experimental: answer questions whose options are labels, as OpenAI's decisions"
        summary = "Experimental: the same, as System One"
        return [
            Route("/v1/decisions", self._decide, decide, DecisionRequest, DecisionAnswer),
            Route("/v1/systemone", self._system_one, summary, SystemOneRequest, SystemOneAnswer),
        ]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return openai_error(problem, status)

    async def _decide(self, call: Call) -> Answer:
        asked = await self.service.read(call, DecisionRequest)
        self.service.choose(call, asked.model)
        found = await self.service.classify(call, [_text(asked.input)])
        labels = Labels(found.scores[0], self.service.settings.label_names)
        answers = [
            _decision(question, labels) or {"type": "refusal", "name": question.name}
            for question in asked.questions
        ]
        tokens = sum(found.tokens)
        usage = {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": _cached(found), "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        }
        return json_answer({"model": found.model, "answers": answers, "usage": usage}, found.headers)

    async def _system_one(self, call: Call) -> Answer:
        asked = await self.service.read(call, SystemOneRequest)
        self.service.choose(call, asked.model)
        if not isinstance(asked.state, str):
            raise refused("state: must be a string, because the model reads one text", "state")
        found = await self.service.classify(call, [asked.state])
        labels = Labels(found.scores[0], self.service.settings.label_names)
        answers = {}
        for name, question in asked.questions.items():
            answer = _system_one(name, question, labels)
            if answer is None:
                known = ", ".join(label for label, _ in found.scores[0][:16])
                raise refused(f"questions.{name}: the model decides only between {known}", "questions", name)
            answers[name] = answer
        usage = {"input_tokens": sum(found.tokens), "output_tokens": 0}
        headers = [*found.headers, (b"x-typesafe-request-id", call.context.headers.request_id)]
        return json_answer({"model": found.model, "answers": answers, "usage": usage}, headers)


def _text(given: Any) -> str:
    """The text of an input: a string, or one user message with one text. Raises Problem 422."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        message = given[0]
        given = message.get("content") if message.get("role") == "user" else None
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
            given = given[0].get("text")
    if not isinstance(given, str):
        raise refused("input: must be a string, or one user message with one text", "input")
    return given


def _cached(found: Classified) -> int:
    """The tokens of a single text if it was known."""
    return 0 if found.computed else sum(found.tokens)


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


def _system_one(name: str, question: SystemOneQuestion, labels: Labels) -> dict[str, Any] | None:
    """The same for System One; a `noul` is also known by the text of its criterion `true`."""
    criteria = question.criteria
    if question.type == "noul":
        stated = criteria.get("true") if isinstance(criteria, dict) else None
        probability = labels.one(name, stated, question.instructions)
        return None if probability is None else {"type": "noul", "noul": probability}
    options = list(criteria)
    found = labels.several(options)
    if found is None:
        return None
    answer: dict[str, Any] = {"type": question.type, "confidence": confidence(found)}
    if question.type == "choice":
        best = options[found.index(max(found))]
        return answer | {"choice": best, "probabilities": dict(zip(options, found, strict=True))}
    numbers = list(map(str, range(len(options))))
    legend, probabilities = (dict(zip(numbers, part, strict=True)) for part in (options, found))
    return answer | {"score": mean(found), "legend": legend, "probabilities": probabilities}
