"""`python3 -m millrace.healthcheck`: the HEALTHCHECK of both images, which asks for /livez."""

from __future__ import annotations

import argparse
import os
import sys
import urllib.request
from pathlib import Path

# For each command, the setting that holds its port, and the port without it. With 0 it does not listen.
_PORTS = {
    "api": ("MILLRACE_PORT", "8000"),
    "up": ("MILLRACE_PORT", "8000"),
    "serve": ("MILLRACE_PORT", "8080"),
    "worker": ("MILLRACE_WORKER_PORT", "0"),
    "jobs": ("MILLRACE_JOBS_PORT", "0"),
}
_TIMEOUT_S = 3
LOOPBACK = "127.0.0.1"


def port_of(words: list[str]) -> int:
    """The port of the process that these words started, or 0."""
    command = next((word for word in words if word in _PORTS), None)
    if command is None:
        return 0
    if command in ("api", "up"):
        options = argparse.ArgumentParser(add_help=False)
        options.add_argument("--port", type=int)
        port: int | None = options.parse_known_args(words)[0].port
        if port is not None:
            return port
    setting, otherwise = _PORTS[command]
    if command == "serve":
        otherwise = os.environ.get("AIP_HTTP_PORT") or otherwise
    return int(os.environ.get(setting) or otherwise)


def main() -> int:
    """Exit status 1 if the process does not answer. One that does not listen counts as healthy."""
    port = port_of(Path("/proc/1/cmdline").read_text().split("\0"))
    host = os.environ.get("MILLRACE_HOST", "")
    host = LOOPBACK if host in ("", "0.0.0.0", "::") else host  # noqa: S104  # read, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/livez"
    try:
        if port:
            urllib.request.urlopen(url, timeout=_TIMEOUT_S).close()
    except OSError as error:  # an error status, too
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
