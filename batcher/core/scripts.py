"""The Lua scripts of the queue and of jobs: their source, their digests, and how to call them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Literal

Script = Literal[
    "enqueue",
    "cancel",
    "outcomes",
    "sweep",
    "workers",
    "wake",
    "lend",
    "claim",
    "complete",
    "beat",
    "release",
    "retire",
    "refused_note",
    "usage",
    "pause",
    "ask",
    "answer",
]

# The package of the queue's scripts.
QUEUE = "batcher.core"


@cache
def script_source(name: str, package: str = QUEUE) -> str:
    """The Lua source of `lua/<name>.lua` in `package`, after that of `lua/common.lua`."""
    folder = resources.files(package) / "lua"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


@cache
def call(name: str, known: bool, package: str = QUEUE) -> tuple[str, str]:
    """The start of a call: by digest if the server knows the script, else by source.

    SCRIPT LOAD is not used, since a script that was loaded can be flushed before it is called.
    """
    source = script_source(name, package)
    if not known:
        return "EVAL", source
    return "EVALSHA", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
