"""Builds the dialects that the settings name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from api.asgi.exceptions import is_no_route
from api.asgi.http import Answer
from api.compat import aliases
from api.compat.clouds import SageMaker, Vertex
from api.compat.decisions import Decisions
from api.compat.dialect import CompatMiddleware, Dialect, Endpoint
from api.compat.fms import FmsDetector
from api.compat.huggingface import HuggingFace
from api.compat.kserve import KServe
from api.compat.model_cards import card_routes
from api.compat.oip import OpenInferenceProtocol
from api.compat.openai import OpenAI
from api.compat.openapi import describe
from api.compat.service import Call, DialectService
from api.compat.tei import TextEmbeddingsInference
from api.compat.vllm import Vllm
from api.errors import Problem
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


# Whose clients read errors below a prefix: those of the first of these dialects that is served.
OF_OPENAI = ("openai", "vllm", "decisions")
PREFIXES = {
    "/v2/": ("oip",),
    "/api/v1/text/": ("fms",),
    "/v1/": (*OF_OPENAI, "kserve"),
    # Routes of these services that classify nothing.
    **dict.fromkeys(("/decode/", "/embed/", "/embed_all/", "/embed_sparse/"), ("tei",)),
    **dict.fromkeys(("/rerank/", "/similarity/"), ("tei",)),
    **dict.fromkeys(("/detokenize/", "/pooling/", "/score/"), ("vllm",)),
}
# The dialects whose clients ask `/v1/models`, and those whose clients take /health for readiness.
OF_MODELS = ("vllm", "openai", "kserve")
OF_HEALTH = frozenset(("huggingface", "tei", "vllm"))

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
        if listing := [name for name in OF_MODELS if name in self.endpoints]:
            form = KServe(service) if listing == ["kserve"] else Vllm(service)
            own = self.endpoints[listing[0]]
            self.endpoints[listing[0]] = [*own, *(Endpoint(route, form) for route in card_routes(service))]
        self._middleware: CompatMiddleware | None = None
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
        for (method, path), alias in self._aliases.items():
            app.router.routes.append(Route(path, alias, methods=[method]))
        for endpoint in self._separate():
            route = endpoint.route
            if route.answer is not None or route.body is not None:
                shown = route.answer is not None
                framework = Route(endpoint.pattern, endpoint, methods=[route.method], include_in_schema=shown)
                app.router.routes.append(framework)
        self._middleware = CompatMiddleware(app, self._separate(), self._aliases)
        return self._middleware

    def error_fields(self, path: str, problem: Problem) -> Mapping[str, object]:
        """What the clients of a dialect read of an error of this path, beside the fields of every error."""
        dialect = self._middleware.dialect_of(path) if self._middleware else None
        dialect = dialect or self._below(path)
        if dialect is not None and is_no_route(problem):
            problem = Problem(404, f"{path} is not offered; /docs lists all routes")
        return {} if dialect is None else dialect.error_body(problem, problem.status).model_dump()

    def _below(self, path: str) -> Dialect | None:
        """The dialect of the prefix of a path."""
        names = next((names for prefix, names in PREFIXES.items() if f"{path}/".startswith(prefix)), ())
        names = ("kserve", *names) if path.endswith(":predict") else names
        return next((self.endpoints[name][0].dialect for name in names if name in self.endpoints), None)

    def describe(self, schema: dict[str, Any]) -> None:
        """Adds the dialects to an OpenAPI document."""
        describe(schema, self.endpoints, keys=self.service.auth.keys.required)
        if self._aliases:
            aliases.describe_aliases(schema)

    def _separate(self) -> Iterator[Endpoint]:
        """All endpoints with their own routes."""
        return (one for routes in self.endpoints.values() for one in routes if one.path != ROUTE)
