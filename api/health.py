"""GET /health, /livez, /readyz and /metrics, for load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from api.asgi.http import JSON, NOSNIFF, RequestHeaders, send_answer
from api.asgi.problems import send_problem
from api.errors import Problem, not_started
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.middleware import ASGIResponse
from api.schemas import Responses, error
from batcher.lookup.backend import Hub, Queue
from batcher.lookup.queue import Models

# The used share of its memory above which Redis is nearly full. The alert MillraceRedisMemory has the same.
MEMORY_ABOVE = 0.9
FAILURES: Responses = {431: error("The headers are too large"), 503: error("Service Unavailable")}


class Healthy(BaseModel):
    """The process is running and, where clients of some other services are served, answers requests."""

    status: Literal["healthy"] = "healthy"


class Live(BaseModel):
    """Every background task of the process is running."""

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """The service can answer requests: with this model, and this many workers.

    With several shards, also how many there are, and how many of them are available.
    """

    status: Literal["ready"] = "ready"
    model: str
    workers: int
    shards: int | None = None
    shards_up: int | None = None
    warning: str | None = None


class Health:
    """Answers GET /health. A plain ASGI application, because load balancers call it often.

    `why_not` says what is against sending requests, where clients take it for readiness.
    """

    def __init__(self, metrics: Metrics, why_not: Callable[[], Problem | None] = lambda: None) -> None:
        self._metrics = metrics
        self._why_not = why_not
        self._body = b'{"status": "healthy"}'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        request_id = RequestHeaders(scope).request_id
        if (problem := self._why_not()) is None:
            headers = [JSON, (b"x-request-id", request_id), NOSNIFF]
            await send_answer(send, 200, headers, self._body)
        else:
            # The fields of text-embeddings-inference, too.
            problem.fields |= {"error": problem.detail, "error_type": "Unhealthy"}
            await send_problem(send, problem, request_id)
        self._metrics.request("/health", problem.status if problem else 200, perf_counter() - started)


def why_not_ready(hub: Queue, lifecycle: Lifecycle) -> Problem | None:
    """None if the service can answer requests, otherwise the reason why not."""
    if lifecycle.draining:
        return Problem(503, "this process is stopping", code="draining")
    return why_no_answers(hub, lifecycle)


def why_no_answers(hub: Queue, lifecycle: Lifecycle) -> Problem | None:
    """The same of a process that is not stopping, and of one that answers until it has stopped."""
    if not lifecycle.started:
        return not_started()
    if not hub.reachable:
        return Problem(503, hub.trouble, code="redis_unavailable")
    if not hub.snapshot.workers or hub.snapshot.model is None:
        return Problem(503, "no worker is running", code="no_worker")
    return None


def warnings(hub: Hub) -> Iterator[str]:
    """Conditions that need attention although requests are answered."""
    if hub.redis_watch.warning:
        yield hub.redis_watch.warning
    if down := [str(number) for number, up in enumerate(hub.shards_up) if not up]:
        which = f"{', '.join(down)} of {len(hub.shards_up)}"
        yield f"the Redis of shard {which} does not answer: its texts get 503"
    if (share := hub.snapshot.memory.share) > MEMORY_ABOVE:
        yield f"Redis uses {share:.0%} of its memory: once it is full, texts that are not cached get 503"
    fallback = hub.snapshot.fallback
    if fallback is not None:
        yield (
            f"{fallback.workers} of {hub.snapshot.workers} workers use a fallback engine or precision: "
            f"{fallback.worker} runs {fallback.engine} {fallback.precision} in {fallback.arithmetic} "
            f"because {fallback.reason}"
        )


def health_routes(
    direct: ASGIApp,
    hub: Hub,
    models: Callable[[], Models],
    metrics: Metrics,
    publish: Callable[[], None],
    lifecycle: Lifecycle,
) -> APIRouter:
    """The four routes. None of them does any I/O. `publish` updates the counters before a scrape.

    `models` are those of the revision that answers.
    """
    router = APIRouter(tags=["health"])

    @router.get(
        "/health",
        summary="Health as load balancers and clients of other services ask for it",
        response_model=Healthy,
        responses=FAILURES,
    )
    async def health() -> Response:
        return ASGIResponse(direct)

    @router.get("/livez", summary="Liveness: restart the process if it fails", responses=FAILURES)
    async def livez() -> Live:
        if not lifecycle.started:
            raise not_started()
        if not (hub.alive and lifecycle.tasks_alive):
            raise Problem(503, "a background task has ended", code="loop_ended")
        return Live()

    @router.get(
        "/readyz",
        summary="Readiness: send requests only while this is 200",
        responses=FAILURES,
        response_model_exclude_none=True,
    )
    async def readyz() -> Ready:
        if (problem := why_not_ready(hub, lifecycle)) is not None:
            raise problem
        snapshot = hub.snapshot
        current = models()
        model = current.header(current.revision).decode("ascii")
        up = hub.shards_up
        several = len(up) > 1
        return Ready(
            model=model,
            workers=snapshot.workers,
            shards=len(up) if several else None,
            shards_up=sum(up) if several else None,
            warning="; ".join(warnings(hub)) or None,
        )

    @router.get(
        "/metrics",
        summary="Metrics in the Prometheus text format",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 431: FAILURES[431]},
    )
    async def scrape() -> Response:
        publish()
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
