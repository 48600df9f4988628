"""The routes under /admin. `api.auth.AdminAccess` admits requests before they come here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.admin.clients import client_routes
from api.admin.forget import add_forget
from api.admin.history import add_history
from api.admin.pauses import pause_routes
from api.admin.publications import publication_routes
from api.admin.refused import refused_routes
from api.admin.schemas import JobsQuery
from api.admin.service import Console
from api.admin.traces import Traces, add_traces
from api.jobs.schemas import job_body
from api.jobs.service import JobService
from api.models.served import ServedModels
from api.settings import ApiSettings
from batcher.jobs.records import JobRecord

# How many jobs one page examines: a filter that matches few of them returns less than a page.
MAX_LOOKS = 1000


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
        _add_jobs(router, jobs)
    add_history(router, console)
    add_traces(router, traces)
    add_forget(router, console, settings, forget_here)

    @router.get("/admin/audit")
    async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """What operators did, newest first."""
        return {"audit": await console.call(console.stores.audit.newest, limit)}

    return [
        router,
        refused_routes(console, models, settings.keep_refused_texts),
        client_routes(console, settings.quotas),
        publication_routes(console, models),
        pause_routes(console, models),
    ]


def _add_jobs(router: APIRouter, service: JobService) -> None:
    @router.get("/admin/jobs")
    async def jobs(query: Annotated[JobsQuery, Query()]) -> dict[str, Any]:
        """Newest first. A page may have fewer than `limit` jobs even if there is a `next_cursor`."""
        filtered = bool(query.search or query.client)
        count = MAX_LOOKS if filtered else query.limit
        records, following = await service.newest(query.status, count, query.cursor, "")
        found: list[JobRecord] = []
        for record in records:
            if len(found) == query.limit:
                following = found[-1].place
                break
            if _matches(record, query):
                found.append(record)
        shown = [job_body(record).model_dump(mode="json") | {"client": record.owner} for record in found]
        return {"jobs": shown, "next_cursor": following}


def _matches(record: JobRecord, query: JobsQuery) -> bool:
    search = query.search.casefold()
    return query.client in ("", record.owner) and (
        record.id.startswith(search) or search in record.file_name.casefold()
    )
