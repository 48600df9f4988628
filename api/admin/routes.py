"""The routes under /admin, and the sessions of /console: a key, or a link that works once, becomes a cookie.

`api.auth.AdminAccess` admits requests before they come here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.admin.clients import client_routes
from api.admin.forget import add_forget
from api.admin.history import add_history
from api.admin.pauses import pause_routes
from api.admin.publications import publication_routes
from api.admin.refused import refused_routes
from api.admin.schemas import JobsQuery
from api.admin.service import Console
from api.admin.traces import Traces, add_traces
from api.asgi.http import headers_of
from api.auth import LINKS, SESSION, AdminAccess
from api.errors import Problem
from api.jobs.schemas import job_body
from api.jobs.service import JobService
from api.models.served import ServedModels
from api.settings import ApiSettings
from batcher.admin.console import LINK_S, SESSION_S
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
    router = APIRouter(include_in_schema=False)
    if jobs is not None:
        _add_jobs(router, jobs)
    add_history(router, console)
    add_traces(router, traces)
    add_forget(router, console, settings, forget_here, traces)

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


def session_routes(console: Console, access: AdminAccess, page: bool) -> APIRouter:
    """`page` says whether there is a console to which a link can lead."""
    router = APIRouter(include_in_schema=False)
    sessions = console.stores.sessions

    @router.post(LINKS, status_code=201)
    async def link(request: Request) -> dict[str, str | int]:
        """The path of a link that begins one session of the operator that asks.

        The secret is behind the #, which browsers neither send to a server nor name as a referrer.
        """
        if not page:
            raise Problem(404, "this service has no console page: MILLRACE_PAGE is false", code="no_page")
        secret = await console.call(sessions.offer, request.state.operator.encode())
        return {"path": f"/console#link={secret}", "expires_s": LINK_S}

    @router.post(SESSION, status_code=204)
    async def begin(request: Request) -> Response:
        """Begins a session of the operator whose key or link the request has shown."""
        session = await console.call(sessions.begin, request.state.operator.encode())
        await console.record(request, "begin_session")
        return _with_cookie(request, access.cookie, session, SESSION_S)

    @router.delete(SESSION, status_code=204)
    async def end(request: Request) -> Response:
        """Ends the session of this browser."""
        if session := access.session(headers_of(request)):
            await console.call(sessions.end, session)
        return _with_cookie(request, access.cookie, "", 0)

    return router


def _with_cookie(request: Request, name: str, value: str, max_age_s: int) -> Response:
    """Without a path, it is for where its route is, also if a proxy has put that under a prefix."""
    response = Response(status_code=204)
    options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": _secure(request)}
    response.set_cookie(name, value, max_age=max_age_s, path=None, **options)
    return response


def _secure(request: Request) -> bool:
    """Whether the browser uses https, perhaps to a proxy that does not say so."""
    origin = headers_of(request).by_name.get(b"origin", b"")
    return request.scope.get("scheme") == "https" or origin.startswith(b"https://")
