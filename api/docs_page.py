"""The pages: /docs (Swagger UI) with /openapi.json, and / and /console, with their files under /static/.

Nothing is loaded from other hosts, so they work offline.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from api.auth import OPEN_PATHS
from api.schemas import error_schemas

SCHEMES: dict[str, dict[str, str]] = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the service requires one"},
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in a separate header",
    },
}


def security(*, required: bool, is_open: bool = False) -> list[dict[str, list[str]]]:
    """The security of a route: a key in either header, which is optional unless it is `required`."""
    if is_open:
        return []
    schemes: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    return schemes if required else [*schemes, {}]


def described(schema: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    """Completes the schema in place, so that `/docs` can send a key to every route that may require one.

    `keys` says whether the service requires them.
    """
    components = schema["components"]
    components["securitySchemes"] = SCHEMES
    components["schemas"] = dict(sorted({**components["schemas"], **error_schemas()}.items()))
    for path, methods in schema["paths"].items():
        for route in methods.values():
            _name_body(route, components["schemas"])
            route["security"] = security(required=keys, is_open=path in OPEN_PATHS)
    if "/predict" in schema["paths"] and "Job" in components["schemas"]:
        answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
        answer["schema"] = {"oneOf": [answer["schema"], {"$ref": "#/components/schemas/Job"}]}
    return schema


def _name_body(route: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Moves the schema of a body that has a title to the components: generators name classes after it."""
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = content.get("schema", {})
    schemas.update(body.pop("$defs", {}))
    if name := body.get("title"):
        schemas[name] = body
        content["schema"] = {"$ref": f"#/components/schemas/{name}"}


# Swagger UI needs inline styles, and data URLs for its icons.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_routes(app: FastAPI, describe: Callable[[dict[str, Any]], None], *, keys: bool) -> APIRouter:
    """The two routes. `describe` adds what the framework does not know to the schema.

    `keys` says whether requests need one.

    URLs in the page are relative, because a proxy may mount the service under a path.
    """
    router = APIRouter(include_in_schema=False)
    content = (files("api") / "static/docs.html").read_bytes()

    @cache
    def contract() -> dict[str, Any]:
        schema = described(app.openapi(), keys=keys)
        describe(schema)
        return schema

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        servers = [{"url": request.scope.get("root_path") or "/"}]
        return JSONResponse({**contract(), "servers": servers})

    @router.get("/docs")
    async def docs() -> Response:
        return Response(content, media_type="text/html", headers={"content-security-policy": _POLICY})

    async def elsewhere() -> Response:
        return RedirectResponse("/docs")

    for path in ("/docs/", "/redoc", "/swagger"):
        router.add_api_route(path, elsewhere, methods=["GET"])
    return router


STATIC = "/static/{name:path}"
# The page may load its own files and call this API. Inline scripts and styles, frames and forms are blocked.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_PAGE_HEADERS = {
    "accept-ranges": "none",
    "cache-control": "no-cache",
    "content-security-policy": PAGE_POLICY,
}


def ui_routes(page: bool, console: bool = True) -> APIRouter:
    """Serves the static files, and if `page` is true the two pages: without `console`, only the first."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(packages=[("api", "static")])

    @router.get(STATIC)
    async def static(name: str, request: Request) -> Response:
        """A whole file: they are small, and errors of ranges would not have the form of the service."""
        request.scope["headers"] = [one for one in request.scope["headers"] if one[0] != b"range"]
        response = await files.get_response(name, request.scope)
        response.headers.update(_PAGE_HEADERS)
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
