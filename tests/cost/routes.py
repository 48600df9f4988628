"""Every route of the API, as its routers have them, so that none is left out of the cost test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from api.dialect_names import DIALECTS
from api.main import create_app
from api.settings import ApiSettings


def every_route() -> list[tuple[str, str]]:
    """The method and path of each; HEAD is answered as GET."""
    app = create_app(ApiSettings(compat=",".join(DIALECTS), open="true")).app
    return sorted({found for found in _routes(app.routes) if found[0] != "HEAD"})


def _routes(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from _routes(inner.routes, prefix)
        else:
            yield from ((method, prefix + route.path) for method in sorted(route.methods))
