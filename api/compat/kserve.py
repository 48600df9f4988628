"""KServe v1: `POST /v1/models/{model}:predict` and `GET /v1/models/{model}`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from api.asgi.http import Answer
from api.compat.dialect import BAD_REQUEST, Dialect, Route, json_answer
from api.compat.reading import TextList, sentence, text_list
from api.compat.service import Call
from api.errors import Problem
from api.health import why_not_ready


class KServeRequest(BaseModel):
    instances: TextList


class KServeAnswer(BaseModel):
    """Each prediction has the scores by label, in the order of the instances."""

    predictions: list[dict[str, float]]


class KServeReady(BaseModel):
    name: str
    ready: bool


class KServeError(BaseModel):
    error: str


class KServe(Dialect):
    error = KServeError
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        return [
            Route(
                "/v1/models/{model}:predict", self._predict, "Classify instances", KServeRequest, KServeAnswer
            ),
            Route("/v1/models/{model}", self._ready, "Readiness of the model", answer=KServeReady),
        ]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return KServeError(error=sentence(problem))

    async def _ready(self, call: Call) -> Answer:
        if (problem := why_not_ready(self.service.served(call).hub, self.service.lifecycle)) is not None:
            raise problem
        return json_answer({"name": call.model, "ready": True})

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, KServeRequest)
        found = await self.service.classify(call, text_list(asked.instances, "instances"))
        predictions = [dict(scores) for scores in found.scores]
        return json_answer({"predictions": predictions}, [*found.headers, found.tokens_header])
