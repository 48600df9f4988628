"""What a request has that a route does not read: named in X-Ignored, or refused if it is in a query."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from inspect import isclass
from urllib.parse import parse_qs, quote

from pydantic import BaseModel
from starlette.requests import Request

from api.errors import Header, Problem

# An error repeats at most this many characters of the name of an unknown field, and a header this many names.
MAX_NAME = 64
MAX_NAMES = 16
# What clients call the model of a request, as `plain` writes it.
MODEL_NAMES = ("model", "modelid", "modelname", "detectorid")


def plain(name: str) -> str:
    """A name without its style: modelName, model-name and MODEL_NAME are the same."""
    return re.sub(r"[-_\s]", "", name).lower()


def ignored_header(places: Iterable[str]) -> Header | None:
    """X-Ignored with the names of fields, percent-encoded; None if there are none."""
    names = [*dict.fromkeys(places)]
    shown = [quote(name[:MAX_NAME], safe="!#$&'()*+-./:;<=>?@[]^_`{|}~") for name in names[:MAX_NAMES]]
    shown += [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return (b"x-ignored", ", ".join(shown).encode()) if shown else None


def ignored_in_query(
    query: bytes, known: Collection[str] = (), refused: Mapping[str, str] | None = None
) -> list[str]:
    """The places of parameters that are not `known`: "?verbose".

    Raises Problem 422 for one of the `refused`, which have `plain` names and say what to do instead.
    """
    names = [name for name in _names(query) if name not in known]
    for name in names:
        if refused and (instead := refused.get(plain(name))):
            raise _unknown(name, instead)
    return [f"?{name}" for name in names]


async def refuse_unknown(request: Request) -> None:
    """A dependency of routes. Raises Problem 422 for a parameter of a query that the route does not have."""
    query = request.scope["query_string"]
    if not query:
        return
    known = _parameters(request)
    for name in _names(query):
        if name not in known:
            close = difflib.get_close_matches(name[:MAX_NAME].lower(), known, n=1, cutoff=0.5)
            listed = f"known are {', '.join(known)}" if known else "this route has none"
            raise _unknown(name, f"did you mean {close[0]}?" if close else listed)


def _parameters(request: Request) -> list[str]:
    """The names of the parameters of the route that a request has reached."""
    found: list[str] = []
    for field in request.scope["route"].dependant.query_params:
        kind = field.field_info.annotation
        found += kind.model_fields if isclass(kind) and issubclass(kind, BaseModel) else [field.alias]
    return found


def _names(query: bytes) -> Iterable[str]:
    return parse_qs(query.decode("latin-1"), keep_blank_values=True)


def _unknown(name: str, instead: str) -> Problem:
    message = f'unknown parameter "{name[:MAX_NAME]}" in the query; {instead}'
    error = {"type": "extra_forbidden", "loc": ["query", name[:MAX_NAME]], "msg": message}
    return Problem(422, [error])
