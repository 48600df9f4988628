"""A host without IPv4, as pods of IPv6-only clusters are: a network namespace that has ::1 alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import needs_server
from tests.service import Process, millrace, wait_until
from tests.tools import needs

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

PORTS = {"MILLRACE_PORT": "8000", "MILLRACE_WORKER_PORT": "9101", "MILLRACE_JOBS_PORT": "9100"}
# Prints the status of a URL, and 0 where nothing listens.
ASK = """
import sys, httpx
for url in sys.argv[1:]:
    try:
        print(httpx.get(url, trust_env=False).status_code)
    except httpx.TransportError:
        print(0)
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    ip, name = needs("ip"), f"millrace-ipv6-{os.getpid()}"
    if subprocess.run([ip, "netns", "add", name], capture_output=True).returncode:
        pytest.skip("network namespaces cannot be made")
    try:
        for words in ("link set lo up", "address delete 127.0.0.1/8 dev lo"):
            subprocess.run([ip, "-n", name, *words.split()], check=True)
        yield name
    finally:
        subprocess.run([ip, "netns", "delete", name], check=True)


def test_probes_of_workers_and_jobs_workers_listened_on_ipv4_only(namespace: str, tmp_path: Path) -> None:
    """The kubelet restarted such pods forever."""
    needs_server()
    inside = ["ip", "netns", "exec", namespace]
    settings = {"MILLRACE_HOST": "::", "MILLRACE_OPEN": "true", **PORTS}
    words = millrace("up", "--model", "stub", "--data-dir", str(tmp_path / "data"))
    up = Process("up", [*inside, *words], settings, tmp_path)
    urls = [
        f"http://[::1]:{port}/{path}" for port in PORTS.values() for path in ("readyz", "livez", "metrics")
    ]

    def statuses() -> set[str]:
        asked = subprocess.run([*inside, sys.executable, "-c", ASK, *urls], capture_output=True, text=True)
        return set(asked.stdout.split())

    try:
        wait_until(lambda: statuses() == {"200"} or not up.running, "all three", 90)
        assert up.running, up.said()
        assert up.stop() == 0
    finally:
        up.close()
