"""OpenAI's moderations: `POST /v1/moderations`. A setting maps the model's labels to categories.

Clients take 404 for a service without moderations, and send the text to OpenAI instead. So this route never
answers it: OpenAI's names stand for the first model, and an unknown one gets 400.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from api.asgi.http import Answer, check_size
from api.compat.dialect import BAD_REQUEST, Route, json_answer
from api.compat.fields import ClosedFields
from api.compat.openai_error import OpenAIDialect
from api.compat.reading import TextOrTexts, refused, text_of_part, texts_of
from api.compat.service import Call
from api.settings import ApiSettings

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
# What a result has in JSON for each category, beside its name in three places.
_BYTES_OF_CATEGORY = 48
_NOT_FLAGGED = dict.fromkeys(CATEGORIES, False)
_NO_SCORES = dict.fromkeys(CATEGORIES, 0.0)
_TEXT = {name: ["text"] for name in CATEGORIES}
_name_of_openai = re.compile(r"(?:omni|text)-moderation-[\w.-]+", re.ASCII).fullmatch


def is_name_of_openai(name: str | None) -> bool:
    """Whether OpenAI has a model for moderations of this name. Here it stands for the first one."""
    return bool(name and _name_of_openai(name))


class Moderation:
    """Writes results of moderations from a model's scores."""

    def __init__(self, settings: ApiSettings) -> None:
        self._given = settings.moderation_labels
        self._threshold = settings.moderation_threshold

    def categories(self, labels: Iterable[str]) -> Mapping[str, str]:
        """The category of each label that has one. Raises Problem 400 if none has."""
        known = list(labels)
        found = {label: name for label in known if (name := self._given.get(label) or self._plain(label))}
        if not found:
            detail = (
                f"the labels of this model are not categories of moderation ({', '.join(known[:16])}); "
                "MILLRACE_MODERATION_LABELS maps them"
            )
            raise refused(detail)
        return found

    def result(self, scores: Iterable[tuple[str, float]], categories: Mapping[str, str]) -> dict[str, Any]:
        """One result. Of several labels with the same category, the highest score counts."""
        given: dict[str, float] = {}
        for label, score in scores:
            if (name := categories.get(label)) is not None:
                given[name] = max(score, given.get(name, 0.0))
        flags = {name: score >= self._threshold for name, score in given.items()}
        return {
            "flagged": True in flags.values(),
            "categories": _NOT_FLAGGED | flags,
            "category_scores": _NO_SCORES | given,
            "category_applied_input_types": _TEXT | {name: ["text"] for name in given},
        }

    def result_bytes(self, categories: Mapping[str, str]) -> int:
        """About how many bytes a result has in JSON."""
        names = {*CATEGORIES, *categories.values()}
        return sum([3 * len(name) + _BYTES_OF_CATEGORY for name in names])

    def _plain(self, label: str) -> str:
        """A label that is the name of a category (self_harm is self-harm), unless the settings map labels."""
        plain = "" if self._given else re.sub(r"[_\s]", "-", label.lower())
        return plain if plain in CATEGORIES else ""


class ModerationRequest(ClosedFields):
    input: TextOrTexts
    model: str | None = None


class ModerationResult(BaseModel):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationAnswer(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]


class OpenAI(OpenAIDialect):
    statuses = BAD_REQUEST | {404: 400}

    def routes(self) -> Sequence[Route]:
        summary = "Moderate texts: labels as OpenAI's categories"
        return [Route("/v1/moderations", self._moderate, summary, ModerationRequest, ModerationAnswer)]

    async def _moderate(self, call: Call) -> Answer:
        asked = await self.service.read(call, ModerationRequest)
        call.served = self.service.find(asked.model, of_first=is_name_of_openai(asked.model))
        moderation = Moderation(self.service.settings)
        texts = texts_in(asked)
        found = await self.service.classify(call, texts, least=len(texts) * moderation.result_bytes({}))
        categories = moderation.categories(label for label, _ in found.scores[0])
        size = len(found.results) * moderation.result_bytes(categories)
        check_size(size, self.service.settings.max_answer_bytes)
        answer = {
            "id": f"modr-{call.context.headers.id}",
            "model": found.model,
            "results": [moderation.result(scores, categories) for scores in found.scores],
        }
        return json_answer(answer, [*found.headers, found.tokens_header])


def texts_in(asked: ModerationRequest) -> list[str]:
    """The texts; a list of parts is one input, of which the text is used. Raises Problem 422."""
    given = asked.input
    if isinstance(given, list) and given and isinstance(given[0], dict):
        given, *others = [text_of_part(part, "text", "input") for part in given]
        if others:
            raise refused(
                "input: more than one part of type text is not supported; send a list of strings", "input"
            )
    return texts_of(given, "input")
