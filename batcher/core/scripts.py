"""The queue's scripts: their text, their digests, and how one is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import redis

Script = Literal["enqueue", "cancel", "outcomes", "sweep", "claim", "complete", "beat", "release", "retire"]


@dataclass(frozen=True, slots=True)
class Command:
    """One call of a script. `args` are what the script reads; `ids` are the entries the call is about."""

    script: Script
    args: Sequence[Any]
    ids: Sequence[str] = ()


@cache
def script_source(name: str) -> str:
    """The Lua text of `lua/<name>.lua`, common part included."""
    folder = resources.files("batcher.core") / "lua"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


@cache
def script_sha(name: str) -> str:
    """What EVALSHA calls it by."""
    return hashlib.sha1(script_source(name).encode(), usedforsecurity=False).hexdigest()


def call(name: str, known: bool) -> tuple[str, str]:
    """The beginning of its call; by its text where the server lacks it: loaded, it might be flushed again."""
    return ("EVALSHA", script_sha(name)) if known else ("EVAL", script_source(name))


def raise_first(answers: Iterable[Any]) -> None:
    """Raises the first exception among answers."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def unknown(answers: Sequence[Any]) -> list[int]:
    """Places of scripts that the server does not know (yet, or since a flush). Only these run again: a claim
    that did run must not be claimed over."""
    return [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]
