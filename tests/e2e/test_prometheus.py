"""`millrace up` with the configuration for one machine, scraped by a real Prometheus: docs/operations.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.settings_loader import free_port
from tests.e2e.conftest import Up
from tests.service import wait_until
from tests.tools import needs

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

ROOT = Path(__file__).parents[2]
USUAL = {"api": 8000, "worker": 9101, "jobs": 9100}
# Panels of what this service does not have: keys, cascades, a shadow, a model with a reference.
ABSENT = re.compile(r"client_requests|cascade|shadow|drift|confidence|truncated")


def configure(folder: Path, ports: dict[str, int]) -> Path:
    """What the commands of docs/operations.md make, with these ports and a scrape each second."""
    page = (ROOT / "docs/operations.md").read_text()
    (commands,) = re.findall(r"```sh\n(mkdir -p monitoring\n.*?)\nprometheus ", page, re.DOTALL)
    for name in ("packaging", "k8s"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run(["sh", "-ec", commands], cwd=folder, check=True, capture_output=True, timeout=60)
    path = folder / "monitoring/prometheus.yml"
    text = path.read_text().replace("15s", "1s")
    for name, usual in USUAL.items():
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{ports[name]}")
    path.write_text(text)
    return path


def panels() -> dict[str, list[str]]:
    """The queries of every panel of every dashboard."""
    found = {}
    for path in sorted((ROOT / "k8s/components/monitoring/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            queries = [target["expr"] for target in panel["targets"]]
            found[f"{dashboard['title']}: {panel['title']}"] = [
                query.replace("$namespace", ".*").replace("$__rate_interval", "10s") for query in queries
            ]
    return found


class Prometheus:
    """What a running Prometheus says."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.http.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def up(self) -> bool:
        try:
            return len(self.get("query", query="up == 1")["result"]) == len(USUAL)
        except httpx.TransportError:
            return False

    def empty(self) -> list[str]:
        """Panels without any data, of those that this service should fill."""
        return [
            title
            for title, queries in panels().items()
            if not ABSENT.search(" ".join(queries))
            and not any(self.get("query", query=query)["result"] for query in queries)
        ]


def test_outside_kubernetes_panels_were_empty_and_alerts_pending(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    """Workers had no label to be distinguished by, and probes during the start were errors."""
    needs("promtool")
    program = needs("prometheus")
    ports = {name: free_port() for name in USUAL}
    service = up(worker_port=ports["worker"], jobs_port=ports["jobs"], ready=False)
    ports["api"] = service.port
    configuration, port = configure(tmp_path, ports), free_port()
    words = [f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'data-of-prometheus'}"]
    with (tmp_path / "prometheus.log").open("w") as log:
        server = subprocess.Popen(
            [program, *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        service.wait_ready()
        wait_until(prometheus.up, "a scrape of all three", 60)
        job = httpx.post(f"http://127.0.0.1:{service.port}/jobs", json={"text": ["a", "b"]}, trust_env=False)
        assert job.status_code == 202
        sent = 0

        def filled() -> bool:
            """Whether all panels have data, while texts keep coming."""
            nonlocal sent
            sent += 1
            assert service.predict(f"text {sent}").status_code == 200
            return not prometheus.empty()

        try:
            wait_until(filled, "data in every panel", 60)
        except AssertionError as error:
            raise AssertionError(f"no data in {prometheus.empty()}") from error
        assert prometheus.get("alerts")["alerts"] == []
        jobs = {
            one["metric"]["job"] for one in prometheus.get("query", query="millrace_build_info")["result"]
        }
        assert jobs == set(USUAL)
    finally:
        prometheus.http.close()
        server.terminate()
        server.wait(30)
