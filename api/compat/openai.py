"""OpenAI's moderations: `POST /v1/moderations`. A setting maps the model's labels to categories.

Clients take 404 for a service without moderations, and send the text to OpenAI instead. So this route never
answers it: OpenAI's names stand for the first model, and an unknown one gets 400.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from api.asgi.http import Answer, check_size
from api.compat.dialect import BAD_REQUEST, Dialect, Route, json_answer
from api.compat.fields import ClosedFields
from api.compat.moderation import Moderation, is_name_of_openai
from api.compat.openai_error import OpenAIError, openai_error
from api.compat.reading import TextOrTexts, refused, texts_of
from api.compat.service import Call
from api.errors import Problem


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


class OpenAI(Dialect):
    error = OpenAIError
    statuses = BAD_REQUEST | {404: 400}

    def routes(self) -> Sequence[Route]:
        summary = "Moderate texts: labels as OpenAI's categories"
        return [Route("/v1/moderations", self._moderate, summary, ModerationRequest, ModerationAnswer)]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return openai_error(problem, status)

    async def _moderate(self, call: Call) -> Answer:
        asked = await self.service.read(call, ModerationRequest)
        self.service.choose(call, asked.model, of_first=is_name_of_openai(asked.model))
        moderation = Moderation(self.service.settings)
        found = await self.service.classify(call, texts_in(asked))
        categories = moderation.categories(label for label, _ in found.scores[0])
        check_size(len(found.results) * moderation.result_bytes(categories), self.service.most_bytes)
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
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in given):
            raise refused("input: images are not supported, only parts of type text", "input")
        if len(given) > 1:
            raise refused(
                "input: more than one part of type text is not supported; send a list of strings", "input"
            )
        given = given[0].get("text")
        if not isinstance(given, str):
            raise refused("input: the text of a part must be a string", "input")
    return texts_of(given, "input")
