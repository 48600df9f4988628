"""Requests of pages of other origins that the settings allow: preflights, and headers to read answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from api.asgi.http import RequestHeaders, route_path
from api.auth import is_admin_path
from api.middleware import DefaultHeaders
from api.origins import Origins
from api.predict.handler import PredictMiddleware


class CrossOrigin(PredictMiddleware):
    """Lets pages of the allowed origins use the application, except for the console.

    Their requests need a key like others: cookies are not accepted from other origins.
    """

    def __init__(self, allowed: Sequence[str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._origins = Origins((), 0, allowed)
        self._cors = CORSMiddleware(
            super().__call__,
            allow_origins=allowed,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("*",),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = super().__call__
        if scope["type"] == "http" and not is_admin_path(route_path(scope)):
            headers = RequestHeaders(scope)
            if self._origins.allows(headers.by_name.get(b"origin")):
                app = self._cors
                if scope["method"] == "OPTIONS":
                    send = DefaultHeaders(headers.request_id, send)
        await app(scope, receive, send)
