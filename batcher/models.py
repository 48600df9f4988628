"""The models of a service: those that a worker serves, and the queue of each (decision 0015)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Names are part of URLs and Redis keys, and cannot contain what ends a hash tag or separates a shard.
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# What paths have below a model: the second part of a name cannot be one of these.
ROUTES = "config|generate|generate_stream|health|infer|info|predict|ready|stats|versions"
_name = re.compile(rf"{_PART}(/(?!(?:{ROUTES})$){_PART})?").fullmatch
is_below_model = re.compile(rf"[^/]+/(?:{ROUTES})").fullmatch
_named = re.compile(rf"({_PART})=(.*)", re.DOTALL).fullmatch
# Stands for the first model if other workers serve it.
ELSEWHERE = "-"
# In the service's snapshot, the field that lists a model is this prefix and the name; it holds until when.
FIELD = "model:"
# How long a model is listed after the last worker that serves it has ended.
LISTED_S = 3600.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that a worker serves: under `name`, or under its own if that is empty."""

    name: str
    reference: str

    def __str__(self) -> str:
        return f"{self.name}={self.reference}" if self.name else self.reference


def parse_models(text: str) -> tuple[ModelSpec, ...]:
    """Reads `[NAME=]REFERENCE,...`. Only the first may be ELSEWHERE. Raises ValueError."""
    specs = []
    for number, part in enumerate(part.strip() for part in text.split(",")):
        named = _named(part)
        spec = ModelSpec(named[1], named[2]) if named else ModelSpec("", part)
        if not spec.reference:
            raise ValueError("must be models separated by commas: default,topics=./topics")
        if number and spec.reference == ELSEWHERE:
            raise ValueError(f"only the first model can be {ELSEWHERE}, which other workers serve")
        specs.append(spec)
    names = [spec.name for spec in specs if spec.name]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"two models are called {twice}")
    if specs == [ModelSpec("", ELSEWHERE)]:
        raise ValueError(f"{ELSEWHERE} must be followed by a model: {ELSEWHERE},topics=./topics")
    return tuple(specs)


def is_name(name: str) -> bool:
    """Whether a model can be served under this name."""
    return _name(name) is not None


def queue_of(service: str, model: str) -> str:
    """The name of a model's queue. That of the first model, "", is the name of the service.

    No service has such a name, so its queue is not that of another service.
    """
    return f"{service}/{model}" if model else service


def listing(name: str) -> dict[str, int]:
    """The field that a worker adds to the snapshot of the service for a model."""
    return {f"{FIELD}{name}": int(time.time() + LISTED_S)}


def read_listed(fields: Mapping[str, str]) -> Sequence[str]:
    """The names among the fields of a snapshot, in order, without those that no worker serves now."""
    now = time.time()
    return tuple(
        sorted(
            name.removeprefix(FIELD)
            for name, until in fields.items()
            if name.startswith(FIELD) and until.isdigit() and float(until) > now
        )
    )
