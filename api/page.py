"""The page at /: a few static files, read once, that need nothing from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from api.errors import Problem

STATIC = "/static/"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Nothing but the page's own files and this API; no inline script or style, no frame, no form target.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent. `no-cache`: kept by browsers, asked about each time."""

    body: bytes
    headers: dict[str, str]


def read_assets() -> dict[str, Asset]:
    """The files of the page by name."""
    folder = resources.files("api") / "static"
    assets = {}
    for file in folder.iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        body = file.read_bytes()
        headers = {
            "content-type": kind,
            "etag": f'"{sha256(body).hexdigest()[:16]}"',
            "cache-control": "no-cache",
            "content-security-policy": _POLICY,
        }
        assets[file.name] = Asset(body, headers)
    return assets


def page_routes() -> APIRouter:
    """The page and its files."""
    router = APIRouter(include_in_schema=False)
    assets = read_assets()

    @router.get("/")
    @router.head("/")
    async def index(if_none_match: Annotated[str, Header()] = "") -> Response:
        return _answer(assets["index.html"], if_none_match)

    @router.get(STATIC + "{name}")
    async def static(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        if name not in assets:
            raise Problem(404, "no such file")
        return _answer(assets[name], if_none_match)

    return router


def _answer(asset: Asset, known: str) -> Response:
    if asset.headers["etag"] in known:
        return Response(status_code=304, headers=asset.headers)
    return Response(asset.body, headers=asset.headers)
