"""KServe v1: `POST /v1/models/{model}:predict`, and liveness at `GET /`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from api.asgi.http import Answer
from api.compat.dialect import BAD_REQUEST, Alive, Dialect, Route, json_answer
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


class KServe(Dialect):
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        return [
            Route(
                "/v1/models/{model}:predict", self._predict, "Classify instances", KServeRequest, KServeAnswer
            ),
            Route("/", self._live, "Liveness", answer=Alive, open=True, beside_page=True),
        ]

    async def _live(self, call: Call) -> Answer:
        self.service.check_started()
        return json_answer({"status": "alive"})

    async def _predict(self, call: Call) -> Answer:
        asked = await self.service.read(call, KServeRequest)
        found = await self.service.classify(call, text_list(asked.instances, "instances"))
        return json_answer({"predictions": [*map(dict, found.scores)]}, [*found.headers, found.tokens_header])
