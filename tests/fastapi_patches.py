"""Reads what each route declares once in a process: most tests of the API make the application anew."""

from __future__ import annotations

from typing import Any

from fastapi._compat import v2
from pydantic import TypeAdapter

_known: dict[tuple[object, str, str], TypeAdapter[Any]] = {}


def install() -> None:
    """Has FastAPI use one adapter of pydantic, which has no state, for all fields that are declared alike."""
    vars(v2)["TypeAdapter"] = adapter


def adapter(annotated: Any, *, config: Any = None) -> TypeAdapter[Any]:
    """The adapter for a type and what is declared of it: functions by address, which it keeps alive."""
    key = annotated.__origin__, repr(annotated.__metadata__), repr(config)
    if key not in _known:
        _known[key] = TypeAdapter(annotated, config=config)
    return _known[key]
