"""Cascades: a fast model answers the texts that it is sure of, another one the rest (decision 0018)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from batcher.models import is_name

FORM = "NAME=FAST:SURE:THRESHOLD"
# No name of a model contains "=", so what a job keeps is either that or a cascade.
_written = re.compile(r"([^=:]+)=([^=:]*):([^=:]*):([0-9.e-]+)").fullmatch


@dataclass(frozen=True, slots=True)
class Cascade:
    """`fast` answers texts whose best score is at least `threshold`, and `sure` the others."""

    name: str
    fast: str
    sure: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.name}={self.fast}:{self.sure}:{self.threshold!r}"

    def trusts(self, fragment: bytes) -> bool:
        """Whether an answer of `fast`, in JSON, is that of the cascade."""
        return bool(max(pair["score"] for pair in json.loads(fragment)) >= self.threshold)


def read_cascade(text: str) -> Cascade | None:
    """The inverse of `str`; None for what is not a cascade."""
    found = _written(text)
    try:
        return Cascade(found[1], found[2], found[3], float(found[4])) if found else None
    except ValueError:
        return None


def parse_cascades(text: str) -> tuple[Cascade, ...]:
    """Reads `NAME=FAST:SURE:THRESHOLD,...`. Raises ValueError."""
    cascades = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        cascade = read_cascade(part)
        if cascade is None or not all(map(is_name, (cascade.name, cascade.fast, cascade.sure))):
            raise ValueError(f"{part} must have the form {FORM}: quick=default:large:0.9")
        if cascade.fast == cascade.sure:
            raise ValueError(f"{part} passes texts from a model to itself")
        if not 0 < cascade.threshold <= 1:
            raise ValueError(f"{part} must have a threshold above 0, and at most 1")
        cascades.append(cascade)
    names = [cascade.name for cascade in cascades]
    for cascade in cascades:
        if names.count(cascade.name) > 1:
            raise ValueError(f"two cascades are called {cascade.name}")
        if nested := next((name for name in (cascade.fast, cascade.sure) if name in names), ""):
            raise ValueError(f"{nested} is a cascade, and the members of {cascade.name} must be models")
    return tuple(cascades)
