"""The Lua scripts of the queue and of jobs: their source, their digests, and how to call them."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

import redis

_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_DEFINITION = re.compile(r"^(?=local )", re.MULTILINE)
_WORD = re.compile(r"\w+")
_NAMES = re.compile(r"\b(?!local\b|function\b)\w+")

# The package of the queue's scripts.
QUEUE = "batcher.core"


def lua_source(name: str, package: str = QUEUE) -> str:
    """What `lua/<name>.lua` in `package` contains."""
    return (resources.files(package) / "lua" / f"{name}.lua").read_text()


@cache
def script_source(name: str, package: str = QUEUE) -> str:
    """The source of a script: those definitions of `lua/common.lua` that it uses, then its own file."""
    own = lua_source(name, package)
    return _used(lua_source("common", package), own) + own


def _used(common: str, script: str) -> str:
    """The top-level definitions whose names occur in the script or in later ones that it uses.

    Lua would create all of them in every call, which takes it longer than most calls of Redis.
    """
    words = set(_WORD.findall(_COMMENT.sub("", script)))
    used = list[str]()
    for definition in reversed(_DEFINITION.split(_COMMENT.sub("", common))[1:]):
        names = _NAMES.findall(definition.partition("=")[0].partition("(")[0])
        if words.intersection(names):
            words.update(_WORD.findall(definition))
            used.append(definition)
    return "".join(reversed(used))


@cache
def call(name: str, known: bool, package: str = QUEUE) -> tuple[str, str]:
    """The start of a call: by digest if the server knows the script, else by source.

    SCRIPT LOAD is not used, since a script that was loaded can be flushed before it is called.
    """
    source = script_source(name, package)
    if not known:
        return "EVAL", source
    return "EVALSHA", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def run(client: redis.Redis, name: str, key: str, *args: Any, package: str = QUEUE) -> Any:
    """Runs a script with one key, by its source if the server does not know it. Raises Redis errors."""
    execute: Any = client.execute_command
    try:
        return execute(*call(name, True, package), 1, key, *args)
    except redis.exceptions.NoScriptError:
        return execute(*call(name, False, package), 1, key, *args)
