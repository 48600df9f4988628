"""The Lua scripts of the queue and of jobs: their source, their digests, and how to call them."""

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
    """One call of a script with `args`; `ids` are the entries that the call concerns."""

    script: Script
    args: Sequence[Any]
    ids: Sequence[str] = ()


# The package of the queue's scripts.
QUEUE = "batcher.core"


@cache
def script_source(name: str, package: str = QUEUE) -> str:
    """The Lua source of `lua/<name>.lua` in `package`, after that of `lua/common.lua`."""
    folder = resources.files(package) / "lua"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


@cache
def script_sha(name: str, package: str = QUEUE) -> str:
    """The digest that EVALSHA needs."""
    return hashlib.sha1(script_source(name, package).encode(), usedforsecurity=False).hexdigest()


def call(name: str, known: bool, package: str = QUEUE) -> tuple[str, str]:
    """The start of a call: by digest if the server knows the script, else by source.

    SCRIPT LOAD is not used, since a script that was loaded can be flushed before it is called.
    """
    return ("EVALSHA", script_sha(name, package)) if known else ("EVAL", script_source(name, package))


def raise_first(answers: Iterable[Any]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def unknown(answers: Sequence[Any]) -> list[int]:
    """Positions of scripts that the server does not know, so that only these are sent again.

    A claim that has run must not run twice: the first one's entries would wait for their leases to end.
    """
    return [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]
