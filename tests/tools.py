"""The programs beside Python that some tests need: which are here, and which tests use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NoReturn

# Programs by the name in `needs`, in the order in which they are looked for.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "caddy": ("caddy",),
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "hadolint": ("hadolint",),
    "ip": ("ip",),
    "kustomize": ("kustomize", "kubectl"),
    "nginx": ("nginx",),
    "openssl": ("openssl",),
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "redis-cli": ("redis-cli",),
    "redis-server": ("redis-server", "valkey-server"),
    "shellcheck": ("shellcheck",),
    "systemd-analyze": ("systemd-analyze",),
}
# Those of tests that only run on request, or with what `make other-clients` installs.
ON_REQUEST = {
    "builder": ("docker", "podman"),
    "buildah": ("buildah",),
    "debootstrap": ("debootstrap",),
    "node": ("node",),
    "podman": ("podman",),
    "podman-compose": (os.environ.get("PODMAN_COMPOSE", "podman-compose"),),
    "runc": ("runc",),
}
REDIS = "redis-server"
# What is recorded of a test: the tools that it needs, and "TOOL PATH" of those that it has used.
TOOL, BINARY = "tool", "binary"
_used: list[tuple[str, object]] = []
_NEEDS = "needs "


def find(tool: str) -> str | None:
    """The path of a program, or None. TEST_CHROMIUM and TEST_REDIS_SERVER name others."""
    named = os.environ.get(f"TEST_{tool.upper().replace('-', '_')}")
    return next(filter(None, (named, *map(shutil.which, (PROGRAMS | ON_REQUEST)[tool]))), None)


def needs(tool: str) -> str:
    """The path of a program; skips the test where it is missing."""
    path = find(tool)
    if path is None:
        missing(tool)
    use(tool, path)
    return path


def missing(tool: str, why: str = "it is not on PATH") -> NoReturn:
    """Skips the test for want of a tool."""
    import pytest  # not above: scripts/bare imports this module with any Python

    pytest.skip(f"{_NEEDS}{tool}: {why}")


def use(tool: str, path: object) -> None:
    """Notes that this test, or a fixture that it is the first to use, uses a tool."""
    _used.extend([(TOOL, tool), (BINARY, f"{tool} {path}")])


def used() -> list[tuple[str, object]]:
    """What has been used since the last call, as properties of a test."""
    noted = _used[:]
    _used.clear()
    return noted


def needed(reason: str) -> list[str]:
    """The tools for want of which a test was skipped, by the reason that it gave."""
    tool = reason.removeprefix(_NEEDS).partition(":")[0]
    return [tool] if reason.startswith(_NEEDS) and tool in PROGRAMS | ON_REQUEST else []


def version(path: str) -> str:
    """What a program says of its version; "" if it says nothing."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else ""
