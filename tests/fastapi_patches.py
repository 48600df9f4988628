"""Reads what each route declares once in a process: most tests of the API make the application anew."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import Any

from fastapi._compat import v2
from fastapi.dependencies import utils
from pydantic import TypeAdapter

_known: dict[tuple[object, str, str], TypeAdapter[Any]] = {}
_parameters: dict[tuple[object, ...], tuple[object, Any]] = {}
_analyze_param: Callable[..., Any] = utils.analyze_param


def install() -> None:
    """Has FastAPI use again what has no state, or is not changed.

    One adapter of pydantic for all fields that are declared alike, and the signature and the parameters of a
    function for others with the same code.
    """
    vars(v2)["TypeAdapter"] = adapter
    for name in ("_get_signature", "get_typed_signature"):
        vars(utils)[name] = _remembered(getattr(utils, name))
    vars(utils)["analyze_param"] = _analyzed


def adapter(annotated: Any, *, config: Any = None) -> TypeAdapter[Any]:
    """The adapter for a type and what is declared of it: functions by address, which it keeps alive."""
    key = annotated.__origin__, repr(annotated.__metadata__), repr(config)
    if key not in _known:
        _known[key] = TypeAdapter(annotated, config=config)
    return _known[key]


def _remembered(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The types of a function are names of its module, and so the same for all with its code and defaults."""
    known: dict[tuple[object, ...], Any] = {}

    def once(call: Any) -> Any:
        if not isfunction(call) or hasattr(call, "__wrapped__"):
            return read(call)
        key = call.__code__, call.__defaults__, tuple((call.__kwdefaults__ or {}).items())
        try:
            if key not in known:
                known[key] = read(call)
        except TypeError:  # a default that has no hash
            return read(call)
        return known[key]

    return once


def _analyzed(*, param_name: str, annotation: Any, value: Any, path_param_names: set[str]) -> Any:
    """By the identity of its type, which is kept."""
    key = param_name, id(annotation), value, type(value), param_name in path_param_names
    try:
        kept, details = _parameters.get(key, (None, None))
    except TypeError:
        key, kept = (), None
    if kept is not annotation or details is None:
        details = _analyze_param(
            param_name=param_name, annotation=annotation, value=value, path_param_names=path_param_names
        )
        if key:
            _parameters[key] = annotation, details
    return details
