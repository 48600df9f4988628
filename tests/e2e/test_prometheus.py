"""Each arrangement of the service, scraped by a real Prometheus with the configuration that belongs to it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from millrace.settings_loader import free_port
from tests.e2e.conftest import starting
from tests.repo.manifests import Object, objects_in, of_kind
from tests.repo.test_chart import helm
from tests.servers import RedisServer, needs_server
from tests.service import Process, millrace, wait_until
from tests.tools import needs

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

ROOT = Path(__file__).parents[2]
USUAL = {"api": 8000, "worker": 9101, "jobs": 9100}
# Panels of what this service does not have: keys, cascades, a shadow, a model with a reference.
ABSENT = re.compile(r"client_requests|cascade|shadow|drift|confidence|truncated")


def configure(folder: Path, ports: Mapping[str, int]) -> Path:
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
            starting = self.http.get("/-/ready").status_code == 503
            return not starting and len(self.get("query", query="up == 1")["result"]) == len(USUAL)
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


@contextmanager
def prometheus_of(configuration: Path, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the three processes."""
    port = free_port()
    words = [f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data-of-prometheus'}"]
    words += [f"--web.listen-address=127.0.0.1:{port}"]
    server = Process("prometheus", [needs("prometheus"), *words], {}, folder)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(prometheus.up, "a scrape of all three", 60)
        yield prometheus
    finally:
        prometheus.http.close()
        server.close()


def check_panels_and_alerts(prometheus: Prometheus, url: str) -> None:
    """Uses the service until every panel has data; then no alert waits to fire."""
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        assert client.post("/jobs", json={"text": ["a", "b"]}).status_code == 202
        sent = 0

        def filled() -> bool:
            nonlocal sent
            sent += 1
            assert client.post("/predict", json={"text": [f"text {sent}"]}).status_code == 200
            return not prometheus.empty()

        try:
            wait_until(filled, "data in every panel", 60)
        except AssertionError as error:
            raise AssertionError(f"no data in {prometheus.empty()}") from error
    assert prometheus.get("alerts")["alerts"] == []
    found = prometheus.get("query", query="millrace_build_info")["result"]
    assert {one["metric"]["job"] for one in found} == set(USUAL)
    assert len({one["metric"]["version"] for one in found}) == 1


@contextmanager
def served(folder: Path, ports: Mapping[str, int]) -> Iterator[None]:
    """`millrace serve`, as in a container of SageMaker or Vertex AI."""
    settings = {"AIP_HTTP_PORT": str(ports["api"]), "MILLRACE_MODEL": "stub", "TMPDIR": str(folder)}
    settings |= {f"MILLRACE_{name.upper()}_PORT": str(ports[name]) for name in ("worker", "jobs")}
    process = Process("serve", millrace("serve"), settings, folder)
    try:
        yield
    finally:
        process.stop()
        process.close()


def unit(root: Path, name: str, changes: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of an installed unit, below `root`."""
    text = (root / f"etc/systemd/system/{name}").read_text()
    for sign, place in (("%S", "state"), ("%t", "run"), ("%C", "cache")):
        text = text.replace(sign, str(root / place))
    text = text.replace("/opt/millrace", str(root / "opt/millrace")).replace(
        "/etc/millrace", str(root / "etc/millrace")
    )
    fields = re.findall(r"^(ExecStart|EnvironmentFile|Environment)=(.*)$", text, re.MULTILINE)
    values = [value for field, value in fields if field == "Environment"]
    files = [Path(value).read_text() for field, value in fields if field == "EnvironmentFile"]
    lines = [line for file in files for line in file.splitlines() if "=" in line and line[0] != "#"]
    words = [word for value in values for word in shlex.split(value)]
    environment = dict(line.split("=", 1) for line in (*words, *lines))
    (command,) = [shlex.split(value) for field, value in fields if field == "ExecStart"]
    if command[0].endswith("/bin/millrace"):
        command = millrace(*command[1:])
    old, new = ":6390/", f":{changes['REDIS_PORT']}/"
    environment = {**{key: value.replace(old, new) for key, value in environment.items()}, **changes}
    return [changes["REDIS_PORT"] if word == "6390" else word for word in command], environment


@contextmanager
def units(folder: Path, ports: Mapping[str, int]) -> Iterator[None]:
    """What systemd would start, with the ports of docs/operations.md."""
    root = folder / "root"
    environment = os.environ | {"DESTDIR": str(root)}
    subprocess.run(
        [ROOT / "scripts/install-systemd"], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    for place in ("state/millrace-redis", "run/millrace-redis", "cache/millrace-%i"):
        (root / place).mkdir(parents=True)
    (root / "opt/millrace/share/redis/server").symlink_to(needs_server())
    changes = {"REDIS_PORT": str(free_port()), "MILLRACE_PORT": str(ports["api"]), "MILLRACE_MODEL": "stub"}
    changes |= {f"MILLRACE_{name.upper()}_PORT": str(ports[name]) for name in ("worker", "jobs")}
    with ExitStack() as stack:
        for name in ("redis", "api", "worker@", "jobs"):
            command, given = unit(root, f"millrace-{name}.service", changes)
            stack.callback(Process(name, command, given, folder).close)
        yield


ONE_MACHINE = {"serve": served, "systemd": units}


@pytest.mark.parametrize("arrangement", ["up", *ONE_MACHINE])
def test_outside_kubernetes_panels_were_empty_and_alerts_pending(tmp_path: Path, arrangement: str) -> None:
    """Workers had no label to be distinguished by, and probes during the start were errors."""
    needs("promtool")
    needs_server()
    ports = {name: free_port() for name in USUAL}
    with ExitStack() as stack:
        if arrangement == "up":
            up = stack.enter_context(starting(tmp_path))
            ports["api"] = up(worker_port=ports["worker"], jobs_port=ports["jobs"], ready=False).port
        else:
            stack.enter_context(ONE_MACHINE[arrangement](tmp_path, ports))
        prometheus = stack.enter_context(prometheus_of(configure(tmp_path, ports), tmp_path))
        wait_until(lambda: ready(ports["api"]), "the service", 90)
        check_panels_and_alerts(prometheus, f"http://127.0.0.1:{ports['api']}")


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def scrapes(objects: list[Object]) -> Iterator[dict[str, Any]]:
    """What the operator makes of the PodMonitor, for a pod of each Deployment on this machine."""
    monitor = of_kind(objects, "PodMonitor")["millrace"]["spec"]
    for name, deployment in of_kind(objects, "Deployment").items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        chosen = monitor["selector"]["matchLabels"].items() <= labels.items() and all(
            labels.get(one["key"]) in one["values"] for one in monitor["selector"]["matchExpressions"]
        )
        for endpoint in monitor["podMetricsEndpoints"] if chosen else ():
            for port in container["ports"]:
                if port["name"] == endpoint["port"]:
                    about = {"job": labels[monitor["jobLabel"]], "namespace": "millrace", "pod": f"{name}-0"}
                    target = {"targets": [f"127.0.0.1:{port['containerPort']}"], "labels": about}
                    yield {"job_name": name, "metrics_path": endpoint["path"], "static_configs": [target]}


def started(deployment: Object, settings: Mapping[str, str], folder: Path) -> Process:
    """The process of a pod, with its environment."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    name = deployment["metadata"]["name"]
    known = {**settings, "REDIS_USERNAME": name, "REDIS_PASSWORD": name}
    for entry in container["env"]:
        known[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], entry["value"])
    return Process(name, millrace(*container.get("args", [name])), known, folder)


def test_the_chart_is_scraped_as_its_pod_monitor_says(tmp_path: Path) -> None:
    needs("prometheus")
    ports = {name: free_port() for name in USUAL}
    redis = RedisServer(needs_server(), tcp=True).start()
    settings = {"MILLRACE_OPEN": True, "MILLRACE_MODEL": "stub", "MILLRACE_PORT": ports["api"]}
    settings |= {f"MILLRACE_{name.upper()}_PORT": ports[name] for name in ("worker", "jobs")}
    values = {
        "apiKeysSecret": "",
        "monitoring": True,
        "redis": {"inside": False, "address": f"127.0.0.1:{redis.port}"},
        "settings": settings,
    }
    with ExitStack() as stack:
        stack.callback(redis.close)
        objects = objects_in(helm({"scraped": values})["cases"]["scraped"])
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(tmp_path / "rules.yml")],
            "scrape_configs": list(scrapes(objects)),
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        rules = of_kind(objects, "PrometheusRule")["millrace"]["spec"]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        given = {**of_kind(objects, "ConfigMap")["settings"]["data"], "MILLRACE_HOST": "127.0.0.1"}
        for deployment in of_kind(objects, "Deployment").values():
            stack.callback(started(deployment, given, tmp_path).close)
        prometheus = stack.enter_context(prometheus_of(tmp_path / "prometheus.yml", tmp_path))
        wait_until(lambda: ready(ports["api"]), "the service", 90)
        check_panels_and_alerts(prometheus, f"http://127.0.0.1:{ports['api']}")
