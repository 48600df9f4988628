"""What gateways publish: every documented path with MILLRACE_COMPAT as it is, and nothing else."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from api.dialect_names import DEFAULTS, DIALECTS
from api.main import create_app
from api.settings import ApiSettings
from millrace.settings_loader import free_port
from tests.repo.manifests import ROOT, Object, objects_in, of_kind
from tests.repo.test_chart import chart, helm
from tests.repo.test_release import script
from tests.service import wait_until
from tests.tools import needs

PRIVATE = {"/livez", "/readyz", "/metrics", "/stats"}
CADDYFILE = ROOT / "packaging/caddy/Caddyfile"
KINDS = ("istio", "gateway-api", "ingress")
# MILLRACE_COMPAT as it may be set, and its names; None: it is not.
COMPAT: dict[str | None, list[str]] = {
    None: list(DEFAULTS),
    "": [],
    "tei, sagemaker": ["tei", "sagemaker"],
    ",".join(DIALECTS): list(DIALECTS),
}


@pytest.fixture(scope="module")
def listed() -> Any:
    """scripts/public-paths as a module."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return script("public-paths")
    finally:
        sys.dont_write_bytecode = before


def served(names: list[str]) -> set[str]:
    """The paths that an API with these dialects documents."""
    app = create_app(ApiSettings(compat=",".join(names))).app  # type: ignore[arg-type]
    dialects = {route.path for route in app.routes if not isinstance(route, APIRoute)}
    page = set() if "huggingface" in names else {"/"}  # which TEI and KServe answer, too
    return {*app.openapi()["paths"], *dialects, "/docs", "/openapi.json"} - PRIVATE - page


@pytest.mark.parametrize("names", [[], *([name] for name in DIALECTS), list(DIALECTS)], ids=",".join)
def test_the_list_has_every_path_that_is_served_and_no_other(listed: Any, names: list[str]) -> None:
    """All but /predict and /jobs got 404 behind every gateway, /models/NAME/predict and the dialects too."""
    paths = [listed.split(path) for group in listed.public(names) for path in group]
    routes = served(names)
    for bare, below, _ in paths:
        assert any(route == bare or (below and route.startswith(f"{bare}/")) for route in routes), bare
    exact = {bare for bare, _, _ in paths}
    prefixes = tuple(f"{bare}/" for bare, below, _ in paths if below)
    assert {route for route in routes if route not in exact and not route.startswith(prefixes)} == set()
    assert not exact & PRIVATE


def test_the_defaults_of_the_list_are_those_of_the_setting() -> None:
    known = yaml.safe_load((ROOT / "k8s/public-paths.yaml").read_text())
    assert tuple(known["default"]) == DEFAULTS
    assert tuple(known["dialects"]) == DIALECTS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The gateways and the script in a folder of their own."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for name in ("scripts/public-paths", "packaging/caddy/Caddyfile"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_script_writes_the_gateways_as_they_are_and_others_for_other_dialects(copy: Path) -> None:
    names = [f"k8s/components/{name}" for name in ("istio/virtualservice.yaml", "gateway-api/httproute.yaml")]
    names += ["k8s/components/ingress/ingress.yaml", "packaging/caddy/Caddyfile"]
    for arguments, has_info in (["tei"], True), ([""], False), ([], True):
        subprocess.run([sys.executable, copy / "scripts/public-paths", *arguments], check=True)
        for name in names:
            text = (copy / name).read_text()
            assert (bool(re.search(r"/info\b", text)), "/predict" in text) == (has_info, True), name
    assert {name: (copy / name).read_text() for name in names} == {
        name: (ROOT / name).read_text() for name in names
    }


def test_an_unknown_dialect_is_refused_by_name(copy: Path) -> None:
    command = [sys.executable, copy / "scripts/public-paths", "tei,trition"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "'trition'" in done.stderr


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    cases: dict[str, dict[str, Any]] = {
        f"{kind} {compat}": {
            "ingress": {"kind": kind},
            "settings": {} if compat is None else {"MILLRACE_COMPAT": compat},
        }
        for kind in KINDS
        for compat in COMPAT
    }
    return helm(
        cases | {"unknown": {"settings": {"MILLRACE_COMPAT": "trition"}, "ingress": {"kind": "istio"}}}
    )


def published(kind: str, objects: list[Object]) -> list[tuple[str, bool, bool]]:
    """The paths of an Istio, Gateway API or Ingress object, as the script splits them."""
    if kind == "istio":
        routes = of_kind(objects, "VirtualService")["millrace"]["spec"]["http"]
        matches = [match for route in routes for match in route["match"]]
        return [
            (next(iter(one["uri"].values())), "prefix" in one["uri"], one.get("method") == {"exact": "POST"})
            for one in matches
        ]
    if kind == "gateway-api":
        rules = of_kind(objects, "HTTPRoute")["millrace"]["spec"]["rules"]
        matches = [match for rule in rules for match in rule["matches"]]
        return [
            (one["path"]["value"], one["path"]["type"] == "PathPrefix", one.get("method") == "POST")
            for one in matches
        ]
    (rule,) = of_kind(objects, "Ingress")["millrace"]["spec"]["rules"]
    return [(one["path"], one["pathType"] == "Prefix", False) for one in rule["http"]["paths"]]


@pytest.mark.parametrize("compat", COMPAT)
@pytest.mark.parametrize("kind", KINDS)
def test_the_chart_publishes_what_the_setting_offers(
    rendered: dict[str, Any], listed: Any, kind: str, compat: str | None
) -> None:
    names = COMPAT[compat]
    expected = [listed.split(path) for group in listed.public(names) for path in group]
    if kind == "ingress":
        expected = [(bare, below, False) for bare, below, _ in expected]
    assert published(kind, chart(rendered, f"{kind} {compat}")) == expected
    if compat is None:  # what the overlays have
        file = {"istio": "virtualservice", "gateway-api": "httproute", "ingress": "ingress"}[kind]
        objects = objects_in((ROOT / f"k8s/components/{kind}/{file}.yaml").read_text())
        assert published(kind, objects) == expected


def test_the_chart_refuses_an_unknown_dialect(rendered: dict[str, Any]) -> None:
    assert "MILLRACE_COMPAT has trition; known are decisions, fms" in rendered["cases"]["unknown"]["error"]


class _Api(BaseHTTPRequestHandler):
    """Answers everything with its method and path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # called by http.server, as the next two
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{self.command} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def caddy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of Caddy with the shipped file, without TLS, in front of a server that answers everything."""
    program = needs("caddy")
    folder = tmp_path_factory.mktemp("caddy")
    api = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    Thread(target=api.serve_forever, daemon=True).start()
    port = free_port()
    text = CADDYFILE.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{api.server_port}")
    text = text.replace("millrace.example.com {", f"http://127.0.0.1:{port} {{\n\tbind 127.0.0.1")
    config = folder / "Caddyfile"
    config.write_text("{\n\tadmin off\n}\n" + text)
    log = folder / "log"
    command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}, stderr=stderr)
    try:
        wait_until(lambda: "serving initial configuration" in log.read_text(), "Caddy", 60)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        api.shutdown()
        api.server_close()


def asked(port: int, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def documented() -> list[tuple[str, str]]:
    """Methods and paths in the tables of docs/http.md and docs/clients.md, of what is on by default."""
    endpoints = (ROOT / "docs/http.md").read_text().partition("## Endpoints")[2].partition("## POST")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", (ROOT / "docs/clients.md").read_text(), re.M)
    routes = re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", endpoints)
    for name, cells in rows:
        method = "GET"
        for said, path in re.findall(r"`(?:(GET|POST) )?(/[^`]*)`", cells) if name in DEFAULTS else ():
            method = said or method
            if not path.startswith("/versions") and (method, path) != ("GET", "/"):  # that of the page
                routes.append((method, path))
    return sorted({(method, re.sub(r"\{\w+\}", "a", path)) for method, path in routes})


@pytest.mark.parametrize(("method", "path"), [one for one in documented() if one[1] not in PRIVATE])
def test_every_documented_path_is_answered_through_caddy(caddy: int, method: str, path: str) -> None:
    assert asked(caddy, method, path) == (200, f"{method} {path}")


@pytest.mark.parametrize(
    "path",
    [
        *sorted(PRIVATE),
        "/",
        "/console",
        "/admin/models",
        "/docs/../metrics",
        "//metrics",
        "/jobs/%2e%2e/stats",
    ],
)
def test_what_is_not_public_stays_behind_caddy(caddy: int, path: str) -> None:
    assert asked(caddy, "GET", path)[0] == 404


def test_the_documents_name_enough_paths() -> None:
    assert len(documented()) > 35
    assert ("POST", "/models/a/predict") in documented()
    assert ("GET", "/v1/batches/a") in documented()
