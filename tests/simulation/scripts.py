"""Runs the queue's scripts as Redis does, in one interpreter for all schedules: each is compiled once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from lupa import lua51

Run = Callable[[Sequence[Any]], Any]

# Redis runs Lua 5.1, whose tables have the same order in every process.
_lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)


class _Calls:
    """What `redis` is to scripts. `run` is the server whose script runs."""

    run: Run

    def call(self, *words: Any) -> Any:
        return _to_lua(self.run(words))


_calls = _Calls()


def _to_lua(reply: Any) -> Any:
    if reply is None:
        return False
    return _lua.table_from([_to_lua(one) for one in reply]) if type(reply) is list else reply


def _from_lua(value: Any) -> Any:
    if value is None or value is False:
        return None
    if isinstance(value, (bytes, int)):
        return int(value) if value is True else value
    if isinstance(value, float):
        return int(value)
    return [_from_lua(value[index]) for index in range(1, len(value) + 1)]


def _plain(value: Any) -> Any:
    """A value as JSON writes it. A table is an object: no script writes an array."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (int, float)) or value is None:
        return value
    return {_plain(key): _plain(one) for key, one in value.items()}


def _decode(text: bytes) -> Any:
    """A table of what `_encode` wrote: no script reads nested JSON."""
    read = json.loads(text)
    return _lua.table_from(
        {key.encode(): one.encode() if isinstance(one, str) else one for key, one in read.items()}
    )


def _encode(value: Any) -> bytes:
    return json.dumps(_plain(value), separators=(",", ":")).encode()


_lua.globals()[b"redis"] = _lua.table_from({b"call": _calls.call, b"pcall": _calls.call})
_lua.globals()[b"cjson"] = _lua.table_from({b"encode": _encode, b"decode": _decode})


@cache
def _compiled(source: bytes) -> Any:
    return _lua.eval(b"function(KEYS, ARGV)\n" + source + b"\nend")


def run_script(run: Run, source: bytes, key: bytes, arguments: Sequence[bytes]) -> Any:
    """The reply of a script whose calls `run` answers."""
    _calls.run = run
    return _from_lua(_compiled(source)(_lua.table_from([key]), _lua.table_from(arguments)))
