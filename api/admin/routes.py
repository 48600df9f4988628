"""The routes under /admin. `api.auth.AdminAccess` admits requests before they come here."""

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
from api.admin.publications import publication_routes
from api.admin.refused import refused_routes
from api.admin.service import Console
from api.admin.traces import Traces, add_traces
from api.jobs.service import JobService
from api.models.served import ServedModels
from api.settings import ApiSettings


def admin_routers(
    console: Console,
    models: ServedModels,
    jobs: JobService | None,
    settings: ApiSettings,
    forget_here: Callable[[], None],
    traces: Traces,
) -> list[APIRouter]:
    """Routers side by side: one inside another would make its routes twice.

    `forget_here` empties the memory of this process; the others follow within two seconds.
    """
    router = APIRouter()
    if jobs is not None:
        add_jobs(router, jobs)
    add_history(router, console)
    add_traces(router, traces)
    add_forget(router, console, settings, forget_here)
    _add_audit(router, console)
    return [
        router,
        refused_routes(console, models, settings.keep_refused_texts),
        client_routes(console, settings.quotas),
        publication_routes(console, models),
        candidate_routes(console, models),
        pause_routes(console, models),
    ]


def _add_audit(router: APIRouter, console: Console) -> None:
    @router.get("/admin/audit")
    async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """What operators did, newest first."""
        return {"audit": await console.call(console.stores.audit.newest, limit)}
