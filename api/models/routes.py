"""GET /models and POST /models/{name}/predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from prometheus_client.core import Metric
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.asgi.http import route_path
from api.metrics import Metrics, queue_state
from api.middleware import ASGIResponse
from api.models.cascade import CascadeState, Members, State, members_of, state_of
from api.models.served import ServedModel, ServedModels
from api.predict.openapi import PREDICT_RESPONSES, Predictions, request_body
from api.predict.request import RequestReader
from api.schemas import error
from api.stats.frames import lanes_facts, model_facts
from batcher.core.publications import model_of
from batcher.lookup.backend import Hub

PREFIX = "/models/"
SUFFIX = "/predict"


class WaitingTexts(BaseModel):
    """Texts that wait in each lane."""

    interactive: int
    bulk: int


class Model(BaseModel):
    """One model. Without a worker, only its name is known."""

    name: str
    first: bool = Field(description="Whether it is the model of POST /predict")
    state: State
    workers: int
    waiting: WaitingTexts
    revision: str | None = None
    labels: list[str] | None = None
    engine: str | None = None
    precision: str | None = None
    max_tokens: int | None = None


class CascadeModel(BaseModel):
    """A name under which a fast model answers what it is sure of, and another one the rest."""

    name: str
    fast: str
    sure: str
    threshold: float = Field(description="The least best score of an answer of the fast model")
    state: CascadeState
    revision: str | None = Field(None, description="Changes with that of each member, and with the threshold")
    labels: list[str] | None = None
    answered: dict[str, int] = Field(description="Texts by the model that spoke, since this API started")
    passed_on: float | None = Field(None, description="The share of them that the fast model was not sure of")


class ModelList(BaseModel):
    models: list[Model]
    cascades: list[CascadeModel] | None = None


class ModelPaths:
    """Answers POST /models/{name}/predict of models that are served, and passes other requests to `app`.

    Those for unknown models go to `unknown`, past the dialects, one of which has a route of this form.
    """

    def __init__(self, models: ServedModels, app: ASGIApp, unknown: ASGIApp) -> None:
        self._models = models
        self._app = app
        self._unknown = unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST":
            path = route_path(scope).removesuffix("/")
            name = path[len(PREFIX) : -len(SUFFIX)]
            if name and path.startswith(PREFIX) and path.endswith(SUFFIX):
                served = self._models.get(name)
                app = self._unknown if served is None else served.handler
        await app(scope, receive, send)


def model_routes(models: ServedModels, reader: RequestReader, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["predict"])

    @router.get(
        "/models",
        summary="The models that are served",
        response_model_exclude_none=True,
        responses={status: PREDICT_RESPONSES[status] for status in (401, 403, 429)},
    )
    async def list_models() -> ModelList:
        """The first one is that of POST /predict."""
        listed = [_model(served, served is models.current) for served in models if served.name]
        every = filter(None, map(members_of, models.cascades.values()))
        answered = metrics.cascade_texts() if models.cascades else {}
        cascades = [_cascade(members, answered.get(members.cascade.name, {})) for members in every]
        return ModelList(models=listed, cascades=cascades or None)

    @router.post(
        "/models/{name:path}/predict",
        summary="Classify texts with the model of this name",
        response_model=Predictions,
        responses={**PREDICT_RESPONSES, 404: error("No such model")},
        openapi_extra=request_body(reader.model, "id"),
    )
    async def classify(name: Annotated[str, Path(description="The name of a model")]) -> Response:
        """As POST /predict, which is the same for the first model."""
        return ASGIResponse(models.find(name).handler)

    return router


def _model(served: ServedModel, first: bool) -> Model:
    snapshot = served.hub.snapshot
    waiting = WaitingTexts(interactive=snapshot.interactive.entries, bulk=snapshot.bulk.entries)
    facts = {"name": served.name, "first": first, "state": state_of(served.hub), "workers": snapshot.workers}
    published = {} if snapshot.model is None else asdict(snapshot.model)
    return Model.model_validate({**published, **facts, "waiting": waiting})


def _cascade(members: Members, answered: dict[str, int]) -> CascadeModel:
    cascade = members.cascade
    model = members.snapshot.model
    total = sum(answered.values())
    return CascadeModel(
        **asdict(cascade),
        state=members.state,
        revision=model.revision if model else None,
        labels=list(model.labels) if model else None,
        answered=answered,
        passed_on=round(answered.get(cascade.sure, 0) / total, 4) if total else None,
    )


# What concerns a queue. The rest concerns the service, and is shown once.
_OF_QUEUE = ("millrace_build", "millrace_queue_", "millrace_in_flight_", "millrace_workers")


def queue_metrics(models: Iterable[ServedModel]) -> Mapping[str, Iterable[Metric]]:
    """The state of all queues, by the names of the models."""
    return {model_of(served.queue): _metrics(served.hub, model_of(served.queue)) for served in models}


def _metrics(hub: Hub, name: str) -> Iterator[Metric]:
    for metric in queue_state(hub):
        if not name or metric.name.startswith(_OF_QUEUE):
            yield metric


def models_facts(models: ServedModels) -> list[dict[str, Any]]:
    """Each model as frames have it, the first one included."""
    return [
        {
            "name": served.name,
            "model": model_facts(served.hub.snapshot.model),
            "workers": served.hub.snapshot.workers,
            "lanes": lanes_facts(served.hub.snapshot),
        }
        for served in models
        if served.name
    ]
