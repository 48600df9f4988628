"""Dockerfiles, compose file and workflow: read here, built where a builder is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ApiSettings
from batcher.settings import JobSettings, QueueSettings, WorkerSettings
from millrace.settings_loader import known_variables
from tests.tools import needs

ROOT = Path(__file__).parents[2]
IMAGES = ("api", "worker")
SCRIPTS = sorted(
    f"scripts/{path.name}"
    for path in (ROOT / "scripts").iterdir()
    if path.is_file() and not path.suffix and "python" not in path.read_text().partition("\n")[0]
)
START = "k8s/base/redis/start.sh"
FORM = "packaging/compose/form-cluster"
DIGEST = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


def instructions(image: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Dockerfile, continued lines joined, comments dropped."""
    text = (ROOT / f"Dockerfile.{image}").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def last_stage(image: str) -> list[tuple[str, str]]:
    found = instructions(image)
    start = max(at for at, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


@pytest.mark.parametrize("image", IMAGES)
def test_every_stage_starts_from_the_one_pinned_base(image: str) -> None:
    found = instructions(image)
    name, base = found[0]
    assert name == "ARG"
    assert DIGEST.fullmatch(base.removeprefix("BASE="))
    stages = {rest.split(" AS ")[1] for name, rest in found if name == "FROM" and " AS " in rest}
    assert ("ARG", "BUILDER=packages") in found or image == "api"
    assert {rest.split()[0] for name, rest in found if name == "FROM"} <= {"${BASE}", "${BUILDER}"} | stages


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_is_small_and_safe(image: str) -> None:
    stage = last_stage(image)
    by_name = dict(stage)
    assert by_name["USER"] == "10001:10001"
    assert by_name["ENTRYPOINT"] == '["python3", "-m", "millrace"]'
    assert by_name["CMD"].startswith("[")
    assert by_name["HEALTHCHECK"].endswith('CMD ["python3", "-m", "millrace.healthcheck"]')
    assert not any("pip install" in rest or "apt-get" in rest for _, rest in stage)
    copies = [rest for name, rest in stage if name == "COPY"]
    assert all(copy.startswith("--from=") for copy in copies), "only what the earlier stages made"
    assert copies[-1] == "--from=code /app /app", "the code is the last layer: it changes most"
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", by_name["LABEL"]))
    assert labels >= {"title", "description", "licenses", "version", "revision"}


@pytest.mark.parametrize("image", IMAGES)
def test_what_changes_often_comes_after_what_takes_long(image: str) -> None:
    found = instructions(image)
    packages = next(at for at, (_, rest) in enumerate(found) if "/venv/bin/python3 -m pip install" in rest)
    code = found.index(("COPY", ". ./"))
    assert packages < code
    before = [rest for name, rest in found[:packages] if name == "COPY"]
    assert before == ["locks ./locks"]


@pytest.mark.parametrize("image", IMAGES)
def test_finding_26_everything_but_torch_is_installed_by_its_hash(image: str) -> None:
    """What our own package is built with, too. Torch's files differ from index to index."""
    installs = [
        command
        for name, rest in instructions(image)
        if name == "RUN"
        for command in rest.split("&&")
        if "pip install" in command
    ]
    assert installs
    for command in installs:
        own = command.rstrip().endswith(" .") and "--no-deps --no-build-isolation" in command
        torch = command.rstrip().endswith(" -c constraints.txt torch")
        assert own or torch or "--require-hashes --no-deps -r locks/" in command, command


@pytest.mark.parametrize("image", IMAGES)
def test_a_file_in_the_working_folder_is_not_imported(image: str) -> None:
    """/tmp can be written to, and `python3 -m` would look there first."""
    environment = " ".join(rest for name, rest in last_stage(image) if name == "ENV")
    assert "PYTHONSAFEPATH=1" in environment.split()


def test_the_default_build_of_the_worker_has_no_torch() -> None:
    """The stage `torch` installs it, which is only used on request and then wants an index without CUDA."""
    found = instructions("worker")
    stage = ""
    for name, rest in found:
        if name == "FROM":
            stage = rest
        if name == "RUN" and re.search(r"\btorch\b|locks/(build|dev)\.txt", rest):
            assert stage == "packages AS torch", rest
    assert any(rest.startswith('test -n "${TORCH_INDEX}"') for name, rest in found if name == "RUN")


@pytest.mark.parametrize("image", IMAGES)
def test_compose_passes_every_build_argument_on(image: str) -> None:
    wanted = {rest.partition("=")[0] for name, rest in instructions(image) if name == "ARG"}
    assert compose()["services"][image]["build"]["args"].keys() == wanted - {"VERSION", "REVISION"}


def test_only_the_worker_has_engines_and_a_model() -> None:
    api = (ROOT / "Dockerfile.api").read_text()
    assert "rm -rf /app/model_store" in api
    assert not re.search(r"optional-dependencies|pip install.*torch", api)
    worker = last_stage("worker")
    assert ("COPY", "--from=model /model /model") in worker
    assert not any("builder" in rest for name, rest in worker if name == "COPY")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_sets_only_settings_that_exist(image: str) -> None:
    for name, rest in instructions(image):
        if name == "ENV":
            assert set(re.findall(r"\b(MILLRACE_\w+)=", rest)) <= known_variables()


def test_the_build_context_has_all_packages_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert "*" in lines
    assert {name.rstrip("*") for name in packages["find"]["include"]} <= let_in
    assert let_in.isdisjoint({"tests", ".git", "docs", "k8s"})


def test_compose_runs_what_the_cluster_runs() -> None:
    services = compose()["services"]
    nodes = {"redis-1", "redis-2", "redis-3", "redis-cluster"}
    assert {"redis", "api", "worker", "jobs", "prometheus", "grafana", *nodes} == services.keys()
    redis_image = re.search(
        r"image: (docker.io/library/redis:\S+)", (ROOT / "k8s/base/redis/statefulset.yaml").read_text()
    )
    assert redis_image is not None
    assert {services[name]["image"] for name in ("redis", *nodes)} == {redis_image[1]}
    assert services["worker"].get("container_name") is None, "it could not be scaled"
    for name, service in services.items():
        ours = re.fullmatch(r"millrace-(api|worker):\$\{TAG:-local\}", service["image"])
        assert ours or DIGEST.fullmatch(service["image"]), service["image"]
        own = ["monitoring"] if name in ("prometheus", "grafana") else ["cluster"] if name in nodes else None
        assert service.get("profiles") == own
        settings = {key for key in service.get("environment", {}) if key.startswith("MILLRACE_")}
        assert settings <= known_variables()


@pytest.mark.parametrize("name", ["api", "worker", "jobs"])
def test_compose_can_trace(name: str) -> None:
    """The packages are an argument of both builds; jobs run in the API's image."""
    service = compose()["services"][name]
    image = service["image"].partition(":")[0].removeprefix("millrace-")
    assert compose()["services"][image]["build"]["args"]["TRACING"] == "${TRACING:-}"
    assert "-r locks/otel.txt" in (ROOT / f"Dockerfile.{image}").read_text()
    passed_on = {key for key, value in service["environment"].items() if value is None}
    assert passed_on >= {"MILLRACE_TRACING", "OTEL_EXPORTER_OTLP_ENDPOINT"}


@pytest.mark.parametrize(
    ("name", "settings"), [("api", ApiSettings), ("worker", WorkerSettings), ("jobs", JobSettings)]
)
def test_compose_ignored_settings_that_it_did_not_list(name: str, settings: type[QueueSettings]) -> None:
    """Each process gets its own, so that a worker knows no secret of webhooks."""
    words = ("HOST", "PORT", "WORKER_PORT", "JOBS_PORT", "MODEL", "ARTEFACT_DIR")
    of_container = {f"MILLRACE_{word}" for word in words}
    known = {f"MILLRACE_{field.upper()}" for field in settings.model_fields}
    passed = {key for key in compose()["services"][name]["environment"] if key.startswith("MILLRACE_")}
    assert passed - of_container == known - of_container


def test_compose_opens_nothing_beyond_this_machine_and_gives_nobody_capabilities() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert all(re.match(r"(\$\{BIND:-)?127\.0\.0\.1", port) for port in service.get("ports", ())), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert {name for name, service in services.items() if not service.get("read_only")} == {
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("name", ["api", "worker", "jobs"])
def test_compose_waits_longer_than_the_drain(name: str) -> None:
    found = re.search(r"(\d+)s", compose()["services"][name]["stop_grace_period"])
    assert found is not None
    grace_s = int(found[1])
    drain_s = {"api": 15.0, "worker": WorkerSettings().drain_s, "jobs": 0.0}[name]
    assert grace_s >= drain_s + 5
    assert JobSettings().jobs_port == 0, "compose opens it by MILLRACE_JOBS_PORT"


def test_compose_and_cluster_read_the_same_monitoring_files() -> None:
    mounted = {
        volume.split(":")[0]
        for name in ("prometheus", "grafana")
        for volume in compose()["services"][name]["volumes"]
        if volume.startswith("./")
    }
    assert mounted == {"./k8s/components/monitoring", "./k8s/components/monitoring/dashboards"}
    assert all((ROOT / path).is_dir() for path in mounted)


def test_compose_makes_rules_of_the_cluster_s_rule_object(tmp_path: Path) -> None:
    """Its Prometheus unwraps the PrometheusRule with the sed in its entrypoint."""
    folder = ROOT / "k8s/components/monitoring"
    shell = compose()["services"]["prometheus"]["entrypoint"][2]
    unwrap = shell.partition("&&")[0].replace("/tmp/", f"{tmp_path}/").replace(" /rules/", f" {folder}/")
    environment = {"RUNBOOKS": "https://wiki.example/millrace", "PATH": os.environ["PATH"]}
    command = ["sh", "-c", unwrap.replace("$$", "$")]
    subprocess.run(command, env=environment, check=True, timeout=10)
    rules = (tmp_path / "rules.yaml").read_text()
    source = yaml.safe_load((folder / "prometheusrule.yaml").read_text())["spec"]
    variable = compose()["services"]["prometheus"]["environment"]["RUNBOOKS"]
    default = re.fullmatch(r"\$\{RUNBOOKS:-(.*)\}", variable)
    assert default
    assert yaml.safe_load(rules.replace(environment["RUNBOOKS"], default[1])) == source
    assert rules.count("runbook_url: https://wiki.example/millrace#") == rules.count("- alert:")


def test_actions_are_pinned_and_call_make() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    workflow = yaml.safe_load(text)
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []
    assert workflow["permissions"] == {"contents": "read"}
    called = set(re.findall(r"\bmake ([a-z]+)", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"check", "test", "manifests", "images", "load"} <= called <= targets
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_started(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize(
    ("linter", "paths"),
    [("hadolint", ["Dockerfile.api", "Dockerfile.worker"]), ("shellcheck", [*SCRIPTS, START, FORM])],
)
def test_a_linter_finds_nothing(linter: str, paths: list[str]) -> None:
    done = subprocess.run([needs(linter), *paths], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.e2e
@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_where_a_builder_is(image: str) -> None:
    """Minutes long, and it needs packages: only on request. `scripts/images-without-docker` does more."""
    if not os.environ.get("TEST_IMAGES"):
        pytest.skip("TEST_IMAGES is not set; CI builds and starts the images in a separate job")
    builder = needs("builder")
    if subprocess.run([builder, "info"], capture_output=True, timeout=30).returncode:
        pytest.skip(f"{builder} does not run here")
    command = [builder, "build", "--file", f"Dockerfile.{image}", "--tag", f"millrace-{image}:test", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
