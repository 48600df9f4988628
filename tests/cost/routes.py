"""Every route of the API, as its routers have them, so that none is left out of the cost test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from api.dialect_names import DIALECTS
from api.main import create_app
from api.settings import ApiSettings


class ApiRoute(NamedTuple):
    """A route and its query parameters, with the values that ask for the most as far as they are known."""

    method: str
    path: str
    query: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def every_route() -> list[ApiRoute]:
    """HEAD is answered as GET."""
    app = create_app(ApiSettings(compat=",".join(DIALECTS), open="true")).app
    return sorted({found for found in _routes(app.routes) if found.method != "HEAD"})


def _routes(routes: Iterable[Any]) -> Iterator[ApiRoute]:
    for route in routes:
        query = tuple(_query(route))
        yield from (ApiRoute(method, route.path, query) for method in sorted(route.methods))


def _query(route: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for parameter in getattr(getattr(route, "dependant", None), "query_params", ()):
        field: FieldInfo = parameter.field_info
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((name, _most(one)) for name, one in field.annotation.model_fields.items())
        else:
            yield parameter.alias, _most(field)


def _most(field: FieldInfo) -> tuple[str, ...]:
    if field.annotation is bool:
        return ("true",)
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return tuple(map(str, get_args(kind)))
    return tuple(str(limit.le) for limit in field.metadata if hasattr(limit, "le"))
