"""Sessions at /console: an operator's key, or a link that works once, is exchanged for a cookie."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.admin.service import Console
from api.asgi.http import headers_of
from api.auth import LINKS, SESSION, AdminAccess
from api.errors import Problem
from batcher.admin.console import LINK_S, SESSION_S


def session_routes(console: Console, access: AdminAccess, page: bool) -> APIRouter:
    """`page` says whether there is a console to which a link can lead."""
    router = APIRouter()
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
