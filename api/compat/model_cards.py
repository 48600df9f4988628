"""`GET /v1/models` and `GET /v1/models/{model}`, in the fields of OpenAI, vLLM and KServe v1 at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from api.asgi.http import Answer
from api.compat.dialect import Route, json_answer
from api.compat.service import Call, DialectService
from batcher.core.snapshot import ModelRecord


class ModelCard(BaseModel):
    """A model. `name` and `ready` are KServe's, `root` and `max_model_len` are vLLM's."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int
    name: str
    ready: bool


class ModelCards(BaseModel):
    """All models, and their names as KServe lists them."""

    object: Literal["list"]
    data: list[ModelCard]
    models: list[str]


def card_routes(service: DialectService) -> Sequence[Route]:
    """The two routes, for whichever of the dialects is served."""

    async def all_models(call: Call) -> Answer:
        service.model(call)  # 503 before the first worker
        served = [*service.models, *service.models.cascades.values()]
        cards = [
            _card(one.name, model, ready=service.why_not_ready(one) is None)
            for one in served
            if (model := one.hub.snapshot.model) is not None
        ]
        return json_answer({"object": "list", "data": cards, "models": [card.id for card in cards]})

    async def one_model(call: Call) -> Answer:
        service.check_ready(call)
        return json_answer(_card(call.model, service.model(call), ready=True).model_dump())

    return [
        Route("/v1/models", all_models, "The models that are served", answer=ModelCards),
        Route("/v1/models/{model}", one_model, "A model, if it is ready", answer=ModelCard),
    ]


def _card(name: str, model: ModelRecord, *, ready: bool) -> ModelCard:
    return ModelCard(
        id=name,
        object="model",
        created=0,
        owned_by="millrace",
        root=f"{model.name}@{model.revision[:12]}",
        max_model_len=model.longest,
        name=name,
        ready=ready,
    )
