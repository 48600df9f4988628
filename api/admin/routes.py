"""The routes under /admin. `api.admin.access` admits requests before they come here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.admin.candidates import candidate_routes
from api.admin.clients import client_routes
from api.admin.forget import add_forget
from api.admin.history import add_history
from api.admin.jobs import add_jobs
from api.admin.pauses import pause_routes
from api.admin.refused import refused_routes
from api.admin.revisions import revision_routes
from api.admin.service import Console
from api.admin.traces import Traces, add_traces
from api.jobs.service import JobService
from api.models.served import ServedModels
from api.settings import ApiSettings


def admin_routes(
    console: Console,
    models: ServedModels,
    jobs: JobService,
    settings: ApiSettings,
    forget_here: Callable[[], None],
    traces: Traces,
) -> APIRouter:
    """`forget_here` empties the memory of this process; the others follow within two seconds."""
    router = APIRouter(include_in_schema=False)
    router.include_router(refused_routes(console, models, settings.keep_refused_texts))
    router.include_router(client_routes(console, settings.quota_texts))
    add_jobs(router, jobs)
    add_history(router, console)
    add_traces(router, traces)
    router.include_router(revision_routes(console, models))
    router.include_router(candidate_routes(console, models))
    router.include_router(pause_routes(console, models))
    add_forget(router, console, settings, forget_here)
    _add_audit(router, console)
    return router


def _add_audit(router: APIRouter, console: Console) -> None:
    @router.get("/admin/audit")
    async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """What operators did, newest first."""
        return {"audit": await console.call(console.books.audit.newest, limit)}
