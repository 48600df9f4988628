"""The code of version 0.1.0, from its commit: run beside this version over the same Redis."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import RedisServer
from tests.service import Process, Service

ROOT = Path(__file__).parents[1]
COMMIT = "3ecc8b6"
# This commit set the version 0.2.0; the files of Redis did not change after it.
COMMIT_0_2_0 = "b1d4328"
# 0.1.0 imports the library `limits`, which is no longer installed. Without a rate limit, it is not used.
_LIMITS = {
    "__init__": "RateLimitItem = object\ndef parse_many(rate): raise ValueError(rate)\n",
    "storage": "MemoryStorage = object\n",
    "strategies": "SlidingWindowCounterRateLimiter = object\n",
}


def unpack(folder: Path, commit: str, *paths: str) -> None:
    """Writes files of a commit to `folder`. Skips the test if the commit is not part of this clone."""
    archive = subprocess.run(["git", "archive", commit, *paths], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the commit {commit} is not in this clone: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def unpack_old_code(folder: Path) -> Path:
    """Writes the old code to `folder`."""
    unpack(folder, COMMIT, "api", "batcher", "millrace", "model_store", "docs/redis.md")
    for name, source in _LIMITS.items():
        path = folder / "limits" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return folder


def old_user_rules(code: Path) -> list[str]:
    """The rules of the Redis user `millrace` of the documents of 0.1.0, with the password `old`."""
    lines = (code / "docs/redis.md").read_text().split("\n")
    line = next(line for line in lines if line.startswith("user millrace "))
    return line.replace(">PASSWORD", ">old").split()[2:]


class OldMill(Service):
    """A service whose processes run the old code."""

    process_type = Process

    def __init__(self, redis: RedisServer, settings: Mapping[str, object], code: Path) -> None:
        url = f"redis://millrace:old@127.0.0.1:{redis.port}/0"
        self._own = {"PYTHONPATH": str(code), "MILLRACE_REDIS_URL": url}
        super().__init__(redis, settings)

    def _start(self, command: str, settings: Mapping[str, str] | None = None) -> Process:
        self.environment.pop("MILLRACE_ADMIN_KEYS", None)  # 0.1.0 refuses settings that it does not know
        return super()._start(command, {**self._own, **(settings or {})})
