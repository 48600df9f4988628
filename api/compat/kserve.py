"""KServe v1: `POST /v1/models/{model}:predict`, and liveness at `GET /`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from api.asgi.http import Answer
from api.compat.dialect import BAD_REQUEST, Dialect, Route, json_answer
from api.compat.fields import Fields, Unsupported
from api.compat.reading import TextList, text_list
from api.compat.service import Call

ALL_SCORES = "the answer always has the scores of all labels"


class KServeRequest(Fields):
    instances: TextList
    parameters: Annotated[Any, Unsupported(ALL_SCORES, ({},))] = None
    top_k: Annotated[Any, Unsupported(ALL_SCORES)] = None


class KServeAnswer(BaseModel):
    """Each prediction has the scores by label, in the order of the instances."""

    predictions: list[dict[str, float]]


class KServeLive(BaseModel):
    status: Literal["alive"]


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
            Route("/", self._live, "Liveness", answer=KServeLive, open=True, beside_page=True),
        ]

    async def _live(self, call: Call) -> Answer:
        return json_answer({"status": "alive"})

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, KServeRequest)
        found = await self.service.classify(call, text_list(asked.instances, "instances"))
        predictions = [dict(scores) for scores in found.scores]
        return json_answer({"predictions": predictions}, [*found.headers, found.tokens_header])
