"""create_app: builds the API application and its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from api.admin.routes import admin_routers, session_routes
from api.asgi.exceptions import EXCEPTION_HANDLERS
from api.batches.routes import batch_routes
from api.batches.service import BatchAnswers
from api.cors import CrossOrigin
from api.docs_page import docs_routes, ui_routes
from api.health import health_routes
from api.jobs.routes import job_routes
from api.label_order import LabelOrder
from api.lifecycle import LIFECYCLE, Lifecycle
from api.middleware import ASGIResponse, RequestMiddleware
from api.models.routes import ModelPaths, model_routes
from api.parts import Backends, Capability, Parts
from api.predict.handler import PATHS, PredictHandler, PredictMiddleware
from api.predict.openapi import PREDICT_RESPONSES, Predictions, request_body
from api.predict.request import RequestReader
from api.settings import ApiSettings
from api.stats.routes import stats_routes
from batcher.lookup.queue import Models

PUBLISH_EVERY_S = 1.0

DESCRIPTION = """
Classifies texts. Known texts are answered from a cache; workers classify the others in batches.

Every response has an `X-Request-ID` header. Every error is `{"detail", "code", "request_id"}`.
"""


def create_app(
    settings: ApiSettings,
    backends: Backends | None = None,
    *,
    lifecycle: Lifecycle | None = None,
    metrics_dir: Path | None = None,
    without: Collection[Capability] = (),
) -> PredictMiddleware:
    """The ASGI application; its attribute `app` is the FastAPI application that it wraps.

    `metrics_dir` is the directory in which the processes of one service share their counters. A server that
    runs the application passes its own `lifecycle`, so that on SIGTERM /readyz fails before the server stops.
    The routes of the capabilities in `without` are left out.
    """
    return assemble(Parts(settings, backends or Backends(), lifecycle or Lifecycle(), metrics_dir, without))


def app() -> PredictMiddleware:
    """The application with the settings of the environment, for `uvicorn --factory api.main:app`."""
    return create_app(ApiSettings())


def assemble(parts: Parts) -> PredictMiddleware:
    """The application of these parts, as `create_app` returns it."""
    app = _framework(parts)
    for router in (*_routers(parts), *_hidden_routers(app, parts)):
        # `include_router` would make each route once more, at the first request.
        app.router.routes.extend(router.routes)
    others: ASGIApp = app
    if parts.has("dialects"):
        others = parts.dialects.wrap(app)
    if parts.has("models"):
        others = ModelPaths(parts.models, others, app)
    paths = PATHS if parts.has("predict") else ()
    made = app, parts.predict, others, parts.models, paths
    allowed = parts.settings.allowed_origins
    return CrossOrigin(allowed, *made) if allowed else PredictMiddleware(*made)


def _framework(parts: Parts) -> FastAPI:
    middleware = Middleware(
        RequestMiddleware,
        health=parts.health,
        auth=parts.auth,
        metrics=parts.metrics,
        error_fields=lambda path, problem: parts.dialects.error_fields(path, problem),
        bodies=lambda: parts.predictor.bodies,
    )
    return FastAPI(
        # Generated clients are named after it; millrace_client is our own.
        title="Millrace API",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        version=parts.metrics.version,
        description=DESCRIPTION,
        openapi_url=None,
        # Redirects for a trailing slash are built from the Host header, which is not trusted.
        redirect_slashes=False,
        lifespan=partial(_running, parts),
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[middleware],
    )


@contextlib.asynccontextmanager
async def _running(parts: Parts, _: FastAPI) -> AsyncIterator[dict[str, Lifecycle]]:
    """Starts what runs beside requests, and stops it in the reverse order."""
    lifecycle = parts.lifecycle
    lifecycle.start()
    await parts.hub.start()
    await parts.models.start()
    traffic = parts.limits.traffic
    publishing = lifecycle.running(_publish(parts.publish), "metrics")
    async with publishing, parts.stats.running(), traffic.running(lifecycle):
        yield {LIFECYCLE: lifecycle}
    parts.metrics.add_up()
    await parts.candidates.stop()
    if parts.has("jobs"):
        await parts.jobs.stop()
    parts.console.stop()
    await parts.models.stop()
    await parts.hub.stop()
    await parts.cache.close()


def _routers(parts: Parts) -> Iterator[APIRouter]:
    """The routes that /openapi.json shows."""
    settings = parts.settings
    reader = parts.predictor.reader
    if parts.has("predict"):
        yield _predict_route(parts.predict, reader, settings.label_order)
    if parts.has("models"):
        yield model_routes(parts.models, reader, parts.metrics)

    def current() -> Models:
        return parts.models.current.lookup.models

    yield health_routes(parts.health, parts.hub, current, parts.metrics, parts.publish, parts.lifecycle)
    if parts.has("jobs"):
        yield job_routes(parts.jobs, settings.label_order)
        if "openai" in parts.dialects.endpoints:
            yield batch_routes(parts.jobs, BatchAnswers(parts.dialects.service))
    yield stats_routes(parts.stats)


def _hidden_routers(app: FastAPI, parts: Parts) -> Iterator[APIRouter]:
    """The console, and the pages."""
    page = parts.settings.page
    if parts.has("console"):
        jobs = parts.jobs if parts.has("jobs") else None
        forget = parts.memory.forget
        yield from admin_routers(parts.console, parts.models, jobs, parts.settings, forget, parts.traces)
        yield session_routes(parts.console, parts.auth.admins, page)
    yield docs_routes(app, parts.dialects.describe, keys=parts.auth.keys.required)
    yield ui_routes(page, console=parts.has("console"))


def _predict_route(predict: PredictHandler, reader: RequestReader, order: LabelOrder) -> APIRouter:
    router = APIRouter(tags=["predict"])

    @router.post(
        "/predict",
        summary="Classify texts",
        response_model=Predictions,
        responses=PREDICT_RESPONSES,
        openapi_extra=request_body(reader.model, order),
    )
    async def classify() -> Response:
        """Results are in the order of the texts. The labels of each are in the `order` that is asked for."""
        return ASGIResponse(predict)

    # So that another method gets 405.
    router.add_api_route("/predict/", classify, methods=["POST"], include_in_schema=False)
    return router


async def _publish(publish: Callable[[], None]) -> None:
    """Publishes the counters every second, so that all processes can report them."""
    while True:
        publish()
        await asyncio.sleep(PUBLISH_EVERY_S)
