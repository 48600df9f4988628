"""Builds the dialects that the settings name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from api.asgi.http import Answer, ASGIApp, Receive
from api.compat import aliases
from api.compat.clouds import SageMaker, Vertex
from api.compat.decisions import Decisions
from api.compat.dialect import CompatMiddleware, Dialect, Endpoint
from api.compat.fms import FmsDetector
from api.compat.huggingface import HuggingFace
from api.compat.kserve import KServe
from api.compat.oip import OpenInferenceProtocol
from api.compat.openai import OpenAI
from api.compat.openapi import describe
from api.compat.service import Call, DialectService
from api.compat.tei import TextEmbeddingsInference
from api.compat.vllm import Vllm
from api.predict.handler import ROUTE
from api.predict.request import RequestContext

CLASSES: dict[str, type[Dialect]] = {
    "huggingface": HuggingFace,
    "tei": TextEmbeddingsInference,
    "oip": OpenInferenceProtocol,
    "kserve": KServe,
    "vllm": Vllm,
    "openai": OpenAI,
    "fms": FmsDetector,
    "decisions": Decisions,
    "sagemaker": SageMaker,
    "vertex": Vertex,
}


# What the bodies of dialects have in place of "text", for those whose route may be /predict.
FOREIGN_KEYS = {"tei": b'"inputs"', "vertex": b'"instances"'}


class Compat:
    """The dialects of these names. `endpoints` are by dialect, those for bodies of /predict included.

    `health` answers GET /health.
    """

    def __init__(self, service: DialectService, health: ASGIApp, names: Iterable[str]) -> None:
        self.service = service
        self.endpoints: dict[str, Sequence[Endpoint]] = {}
        self._aliases: Mapping[tuple[str, str], ASGIApp] = {}
        for name in names:
            if name == aliases.NAME:
                self._aliases = aliases.aliases(aliases.Current(service.models), health)
            else:
                dialect = CLASSES[name](service)
                self.endpoints[name] = [Endpoint(route, dialect) for route in dialect.routes()]
        # Dialects that share the route /predict, by the key that they have in place of "text".
        self._sharing = {
            FOREIGN_KEYS[name]: endpoint
            for name, endpoints in self.endpoints.items()
            for endpoint in endpoints
            if endpoint.path == ROUTE
        }

    @property
    def foreign_keys(self) -> Collection[bytes]:
        """The keys by which `answer` knows its bodies, as they stand there: b'"inputs"'."""
        return self._sharing.keys()

    async def answer(self, context: RequestContext, body: bytes, receive: Receive, model: str = "") -> Answer:
        """The answer to a body of /predict that is one of another dialect."""
        # A key is followed by a colon. A text that equals one is not.
        found = [one for key, one in self._sharing.items() if re.search(key + rb"\s*:", body)]
        endpoint = found[0] if found else next(iter(self._sharing.values()))
        call = Call(context, receive, model, body=body)
        del body  # so that the call's is the only reference
        return await endpoint.answer(call)

    def wrap(self, app: FastAPI) -> ASGIApp:
        """Adds the routes to `app`, and returns the application that answers them before it."""
        # The framework has them too, so that another method gets 405.
        app.router.routes.extend(aliases.framework_routes(self._aliases))
        for endpoint in self._separate():
            app.router.routes.append(Route(endpoint.path, endpoint, methods=[endpoint.route.method]))
        return CompatMiddleware(app, self._separate(), self._aliases)

    def describe(self, schema: dict[str, Any]) -> None:
        """Adds the dialects to an OpenAPI document."""
        describe(schema, self.endpoints)
        if self._aliases:
            aliases.describe_aliases(schema)

    def _separate(self) -> Iterator[Endpoint]:
        """All endpoints with their own routes."""
        return (one for routes in self.endpoints.values() for one in routes if one.path != ROUTE)
