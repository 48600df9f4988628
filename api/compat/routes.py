"""Builds the dialects that the settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from api.asgi.http import Answer, ASGIApp, Receive
from api.compat import parse_dialects
from api.compat.dialect import CompatMiddleware, Dialect, Endpoint
from api.compat.fms import FmsDetector
from api.compat.huggingface import HuggingFace
from api.compat.kserve import KServe
from api.compat.oip import OpenInferenceProtocol
from api.compat.openai import OpenAI
from api.compat.openapi import describe
from api.compat.road import Call, Road
from api.compat.tei import TextEmbeddingsInference
from api.compat.vllm import Vllm
from api.predict.context import RequestContext
from api.predict.handler import ROUTE, PredictHandler

CLASSES: dict[str, type[Dialect]] = {
    "huggingface": HuggingFace,
    "tei": TextEmbeddingsInference,
    "oip": OpenInferenceProtocol,
    "kserve": KServe,
    "vllm": Vllm,
    "openai": OpenAI,
    "fms": FmsDetector,
}


class Compat:
    """The dialects in MILLRACE_COMPAT. `endpoints` are by dialect, those for bodies of /predict included."""

    def __init__(self, road: Road) -> None:
        self.endpoints: dict[str, Sequence[Endpoint]] = {}
        for name in parse_dialects(road.settings.compat):
            dialect = CLASSES[name](road)
            self.endpoints[name] = [Endpoint(route, dialect) for route in dialect.routes()]
        for endpoint in self.endpoints.get("tei", ()):
            if endpoint.path == ROUTE:
                _answer_through_predict(road.predict, endpoint)

    def wrap(self, app: FastAPI) -> ASGIApp:
        """Adds the routes to `app`, and returns the application that answers them before it."""
        for endpoint in self._separate():
            # The framework has them too, so that another method gets 405.
            app.router.routes.append(Route(endpoint.path, endpoint, methods=[endpoint.route.method]))
        return CompatMiddleware(app, self._separate())

    def describe(self, schema: dict[str, Any]) -> None:
        """Adds the dialects to an OpenAPI document."""
        describe(schema, self.endpoints)

    def _separate(self) -> Iterator[Endpoint]:
        """All endpoints with their own routes."""
        return (one for routes in self.endpoints.values() for one in routes if one.path != ROUTE)


def _answer_through_predict(predict: PredictHandler, endpoint: Endpoint) -> None:
    async def answer(context: RequestContext, body: bytes, receive: Receive) -> Answer:
        call = Call(context, receive, body=body)
        del body  # so that the call's is the only reference
        return await endpoint.answer(call)

    predict.reader.foreign_keys = [b'"inputs"']
    predict.foreign = answer
