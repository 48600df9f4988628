"""create_app: builds the API application and its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from starlette.middleware import Middleware

from api.admin.confirming import Confirming
from api.admin.forget import Memory
from api.admin.history import Minutes
from api.admin.routes import admin_routers
from api.admin.service import Console, ConsoleStores
from api.admin.sessions import session_routes
from api.admin.traces import Traces
from api.asgi.exceptions import EXCEPTION_HANDLERS
from api.asgi.http import Answer, Receive
from api.auth import Authenticator, ClientLimits
from api.backend import Cache, Hub
from api.batches.answers import BatchAnswers
from api.batches.routes import batch_routes
from api.compat.routes import Compat
from api.compat.service import DialectService
from api.docs_page import docs_routes
from api.health import Health, health_routes
from api.jobs.routes import JobDeferral, job_routes
from api.jobs.service import JobService
from api.label_order import LabelOrder
from api.lifecycle import LIFECYCLE, Lifecycle
from api.metrics import Metrics
from api.middleware import ASGIResponse, RequestMiddleware
from api.models.candidates import Candidates
from api.models.cascade import cascades, job_queues, members_of
from api.models.observed import models_facts, queue_metrics
from api.models.routes import ModelPaths, model_routes
from api.models.served import Connect, Served, ServedModels
from api.predict.handler import Alternatives, Deferral, PredictHandler, PredictMiddleware
from api.predict.lookup import LocalCache, PredictionLookup
from api.predict.openapi import PREDICT_RESPONSES, Predictions, request_body
from api.predict.request import RequestContext
from api.predict.request_log import RequestLog
from api.settings import ApiSettings
from api.stats.routes import Stats, stats_routes
from api.ui import ui_routes
from batcher.core.by_model import ByModel
from batcher.core.revisions import model_of
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache

PUBLISH_EVERY_S = 1.0

DESCRIPTION = """
Classifies texts. Known texts are answered from a cache; workers classify the others in batches.

Every response has an `X-Request-ID` header. Every error is `{"detail", "code", "request_id"}`.
"""


def create_app(
    settings: ApiSettings,
    *,
    hub: Hub | None = None,
    cache: Cache | None = None,
    jobs: JobService | None = None,
    deferral: Deferral | None = None,
    lifecycle: Lifecycle | None = None,
    metrics_dir: Path | None = None,
    stores: ConsoleStores | None = None,
    connect: Connect | None = None,
) -> PredictMiddleware:
    """The ASGI application; its attribute `app` is the FastAPI application that it wraps.

    `hub`, `cache`, `jobs` and `stores` default to clients of the Redis in the settings, `deferral` to one
    that creates jobs, and `connect` to one for the queues of other models than the first.

    `metrics_dir` is the directory in which the processes of one service share their counters. A server that
    runs the application passes its own `lifecycle`, so that on SIGTERM /readyz fails before the server stops.
    """
    hub = hub or ReplyHub.connect(settings)
    cache = cache or connect_cache(settings)
    lifecycle = lifecycle or Lifecycle()
    auth = Authenticator(settings)
    jobs = jobs or JobService.connect(settings, auth.keys, lambda: lifecycle.draining)
    console = Console(stores or ConsoleStores.connect(jobs, settings), lambda: hub.shards_up)
    local = LocalCache(settings.local_cache_entries, settings.local_cache_bytes)
    metrics = Metrics(settings.default_budget_s, metrics_dir, ByModel(lambda: queue_metrics(models)))

    limits = ClientLimits(settings, hub)
    lookup = PredictionLookup(settings, hub, cache, local, limits)
    log = RequestLog(metrics, limits.traffic)
    traces = Traces(console, hub, log.recent)
    memory = Memory(hub, [local.clear, log.recent.clear, lambda: candidates.forget()])

    def publish() -> None:
        memory.follow()
        traces.follow()
        for members in filter(None, map(members_of, models.cascades.values())):
            members.follow()
        metrics.publish(local, [one.hub for one in models.queues], [one.cache for one in models.queues])

    jobs.check_client = limits.check
    jobs.count_texts = limits.traffic.count_job

    async def foreign(context: RequestContext, body: bytes, receive: Receive, model: str = "") -> Answer:
        return await compat.answer(context, body, receive, model)

    alternatives = Alternatives(deferral or JobDeferral(jobs), foreign)
    predict = PredictHandler(settings, lookup, lifecycle, auth, alternatives, log)
    health = Health(metrics)

    def connect_model(name: str) -> tuple[Hub, Cache]:
        own = settings.for_model(name)
        return ReplyHub.connect(own), connect_cache(own)

    def handle(name: str, found: PredictionLookup) -> PredictHandler:
        # The first model's revisions have its route.
        route = f"/models/{model_of(name)}/predict" if model_of(name) else predict.route
        own = Alternatives(JobDeferral(jobs, model_of(name)), partial(foreign, model=model_of(name)))
        return predict.for_model(route, found, own)

    store = partial(console.call, console.stores.comparisons.add)
    candidates = Candidates(store, auth, handle, metrics)
    models = ServedModels(
        Served("", hub, cache, lookup, predict),
        connect or connect_model,
        handle,
        divide=candidates.divide,
        cascades=lambda models: cascades(settings.all_cascades, models, handle, metrics),
        on_move=lambda served: answering.answer_with(served.handler),
        on_sweep=Confirming(console).confirm,
    )
    jobs.find_model = job_queues(models)
    compat = Compat(DialectService(settings, predict, models, auth, lifecycle), health)
    stats = Stats(
        metrics,
        hub,
        jobs,
        lifecycle,
        settings.lease_ms / 1000,
        model=lambda: models.current.hub.snapshot.model,
        models=lambda: models_facts(models),
        on_point=Minutes(console).take,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Lifecycle]]:
        lifecycle.catch_signals()
        await hub.start()
        await models.start()
        async with _published(publish, lifecycle), stats.running(), limits.traffic.running(lifecycle):
            yield {LIFECYCLE: lifecycle}
        await candidates.stop()
        await jobs.stop()
        console.stop()
        await models.stop()
        await hub.stop()
        await cache.close()

    app = FastAPI(
        title="Millrace",
        version=metrics.version,
        description=DESCRIPTION,
        openapi_url=None,
        # Redirects for a trailing slash are built from the Host header, which is not trusted.
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[Middleware(RequestMiddleware, health=health, auth=auth, metrics=metrics)],
    )
    app.include_router(_predict_route(predict, settings.label_order))
    app.include_router(model_routes(models, predict, metrics))
    app.include_router(
        health_routes(health, hub, lambda: models.current.lookup.models, metrics, publish, lifecycle)
    )
    app.include_router(job_routes(jobs, settings.max_job_body_bytes, settings.label_order))
    if "openai" in compat.endpoints:
        app.include_router(batch_routes(jobs, BatchAnswers(compat.service)))
    app.include_router(stats_routes(stats))
    for router in admin_routers(console, models, jobs, settings, memory.forget, traces):
        app.include_router(router, include_in_schema=False)
    app.include_router(session_routes(console, auth.admins, settings.page), include_in_schema=False)
    app.include_router(docs_routes(app, compat.describe))
    app.include_router(ui_routes(settings.page))
    answering = PredictMiddleware(app, predict, ModelPaths(models, compat.wrap(app), app), models)
    return answering


def _predict_route(predict: PredictHandler, order: LabelOrder) -> APIRouter:
    router = APIRouter(tags=["predict"])

    @router.post(
        "/predict",
        summary="Classify texts",
        response_model=Predictions,
        responses=PREDICT_RESPONSES,
        openapi_extra=request_body(predict.reader.model, order),
    )
    async def classify() -> Response:
        """Results are in the order of the texts. The labels of each are in the `order` that is asked for."""
        return ASGIResponse(predict)

    # So that another method gets 405.
    router.add_api_route("/predict/", classify, methods=["POST"], include_in_schema=False)
    return router


@contextlib.asynccontextmanager
async def _published(publish: Callable[[], None], lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Publishes the counters every second while it is open, so that all processes can report them."""

    async def repeat() -> None:
        while True:
            publish()
            await asyncio.sleep(PUBLISH_EVERY_S)

    publisher = lifecycle.watch(asyncio.create_task(repeat(), name="metrics"))
    yield
    publisher.cancel()
    await asyncio.wait([publisher])
