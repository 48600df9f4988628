"""The pages at / and /console, and their files under /static/. Nothing is loaded from other hosts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = "/static/{name:path}"
# The page may load its own files and call this API. Inline scripts and styles, frames and forms are blocked.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {"cache-control": "no-cache", "content-security-policy": PAGE_POLICY}


def ui_routes(page: bool, console: bool = True) -> APIRouter:
    """Serves the static files, and if `page` is true the two pages: without `console`, only the first."""
    router = APIRouter()
    files = StaticFiles(packages=[("api", "static")])

    @router.get(STATIC)
    async def static(name: str, request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response

    def add_page(path: str, name: str, shown: bool) -> None:
        async def show(request: Request) -> Response:
            if not shown:
                raise HTTPException(404)
            return await static(name, request)

        router.add_api_route(path, show, methods=["GET"])

    add_page("/", "index.html", page)
    add_page("/console", "console.html", page and console)
    return router
