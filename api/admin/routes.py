"""The routes under /admin. `api.admin.access` admits requests before they come here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, params

from api.admin.candidates import candidate_routes
from api.admin.clients import client_routes
from api.admin.history import add_history
from api.admin.jobs import add_jobs
from api.admin.pauses import pause_routes
from api.admin.refused import refused_routes
from api.admin.revisions import revision_routes
from api.admin.schemas import Forget
from api.admin.service import Console
from api.admin.traces import Traces, add_traces
from api.errors import Problem
from api.jobs.service import JobService
from api.models.served import ServedModels
from api.settings import ApiSettings
from batcher.admin.forget import Removed, total


def admin_routes(
    console: Console,
    models: ServedModels,
    jobs: JobService,
    settings: ApiSettings,
    forget_here: Callable[[], None],
    traces: Traces,
) -> APIRouter:
    """`forget_here` empties the memory of this process; the others follow within two seconds."""
    whole = APIRouter(include_in_schema=False)
    whole.include_router(revision_routes(console, models))
    whole.include_router(candidate_routes(console, models))
    router = APIRouter(dependencies=_one_shard(len(settings.queue_shards)))
    router.include_router(refused_routes(console, models.first.hub, settings.keep_refused_texts))
    router.include_router(client_routes(console, settings.quota_texts))
    add_jobs(router, jobs)
    add_history(router, console)
    add_traces(router, traces)
    router.include_router(pause_routes(console, models))
    _add_forget(router, console, settings, forget_here)
    _add_audit(router, console)
    whole.include_router(router)
    return whole


def _one_shard(shards: int) -> list[params.Depends]:
    def refuse() -> None:
        detail = f"except for revisions, the console works with one shard, and this queue has {shards}"
        raise Problem(501, detail, code="several_shards")

    return [Depends(refuse)] if shards > 1 else []


def _add_audit(router: APIRouter, console: Console) -> None:
    @router.get("/admin/audit")
    async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """What operators did, newest first."""
        return {"audit": await console.call(console.books.audit.newest, limit)}


def _add_forget(
    router: APIRouter, console: Console, settings: ApiSettings, forget_here: Callable[[], None]
) -> None:
    tenants = {f"key:{name}" for name in settings.key_names.values()} if settings.separate_clients else set()

    @router.post("/admin/forget")
    async def forget(request: Request, what: Forget) -> dict[str, Any]:
        """Removes a text, a client or a revision from cache, kept results, records and jobs."""
        removed, named = await _forget(console, what, tenants)
        forget_here()
        await console.record(request, "forget", **named, keys=total(removed))
        return {"keys": total(removed), "removed": removed}


async def _forget(console: Console, what: Forget, tenants: set[str]) -> tuple[Removed, dict[str, str]]:
    """What was removed, and how the audit line names it."""
    forgetting = console.books.forgetting
    if what.text is not None:
        removed = await console.call(forgetting.text, what.text, sorted(tenants | set(what.tenants)))
        return removed, {"what": "a text"}
    if what.client is not None:
        return await console.call(forgetting.client, what.client), {"what": f"client {what.client}"}
    assert what.revision is not None, "the schema requires one of the three"
    return await console.call(forgetting.revision, what.revision), {"what": f"revision {what.revision}"}
