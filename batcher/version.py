"""The version that this program calls itself, everywhere: that of its installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "millrace-server"


def own_version() -> str:
    """A version such as 0.3.0 or 0.3.0.dev0, or "unknown" if the distribution is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
