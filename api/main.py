"""create_app: the HTTP edge put together, and its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response

from api.asgi.middleware import ASGIResponse, Edge
from api.backend import Cache, Hub
from api.docs_page import docs_routes
from api.health import Health, health_routes
from api.jobs.routes import Deferral, job_routes
from api.jobs.service import JobService
from api.keys import Keys
from api.lifecycle import PHASE, Lifecycle
from api.metrics import Metrics, QueueCollector
from api.predict.handler import PredictHandler
from api.predict.local_cache import LocalCache
from api.predict.request import PREDICT_RESPONSES, Predictions, request_body
from api.server.syn_filter import Door
from api.settings import ApiSettings
from api.stats.routes import Stats, stats_routes
from api.ui import ui_routes
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import SharedCache

PUBLISH_EVERY_S = 1.0

DESCRIPTION = """
Texts in, labels out. Known texts are answered from a cache, the others are gathered into batches by workers.

Every answer carries `X-Request-ID`; every error is `{"detail", "code", "request_id"}`.
"""


def create_app(
    settings: ApiSettings,
    *,
    hub: Hub | None = None,
    cache: Cache | None = None,
    jobs: JobService | None = None,
    metrics_dir: Path | None = None,
    catch_signals: bool = False,
    door: Door | None = None,
) -> Edge:
    """The ASGI application. `hub`, `cache` and `jobs` default to real ones on the settings' Redis.

    `metrics_dir` is where several processes of one service keep their counters; `catch_signals` lets SIGTERM
    take readiness away and shut the `door` before the server begins to stop (see `api.server.run`).
    """
    hub = hub or ReplyHub.connect(settings)
    cache = cache or SharedCache.connect(settings)
    phase = Lifecycle()
    local = LocalCache(settings.local_cache_entries, settings.local_cache_bytes)
    metrics = Metrics(settings.default_budget_s, metrics_dir)
    metrics.registry.register(QueueCollector(hub))
    publish = partial(metrics.publish, local, hub, cache)
    predict = PredictHandler(settings, hub, cache, local, metrics, phase)
    jobs = jobs or JobService.connect(settings, lambda: phase.draining)
    predict.deferral = Deferral(jobs)
    stats = Stats(metrics, hub, jobs, phase)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Lifecycle]]:
        if catch_signals:
            phase.catch_signals(settings.quiet_s, door)
        await hub.start()
        async with _published(publish, phase), stats.running():
            yield {PHASE: phase}
        await jobs.stop()
        await hub.stop()
        await cache.close()

    edge = Edge(
        predict,
        metrics,
        Keys(settings.key_names),
        phase,
        title="Millrace",
        version=metrics.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    health = Health(metrics)
    edge.direct = {("POST", "/predict"): predict, ("GET", "/health"): health}
    edge.include_router(_predict_route(predict))
    edge.include_router(health_routes(health, hub, predict.models, metrics, publish, phase))
    edge.include_router(job_routes(jobs, settings.max_job_body_bytes))
    edge.include_router(stats_routes(stats))
    edge.include_router(docs_routes(edge.title))
    edge.include_router(ui_routes(settings.page))
    return edge


def _predict_route(predict: PredictHandler) -> APIRouter:
    router = APIRouter(tags=["predict"])

    @router.post(
        "/predict",
        summary="Classify texts",
        response_model=Predictions,
        responses=PREDICT_RESPONSES,
        openapi_extra=request_body(predict.reader.model),
    )
    async def classify() -> Response:
        """Answers in the order of the texts; the labels of each stand in label id order."""
        return ASGIResponse(predict)

    return router


@contextlib.asynccontextmanager
async def _published(publish: Callable[[], None], phase: Lifecycle) -> AsyncIterator[None]:
    """Within it, sibling processes see what this one counts, a second old at most."""

    async def repeat() -> None:
        while True:
            publish()
            await asyncio.sleep(PUBLISH_EVERY_S)

    publisher = phase.watch(asyncio.create_task(repeat(), name="metrics"))
    yield
    publisher.cancel()
    await asyncio.wait([publisher])
