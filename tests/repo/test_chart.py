"""The Helm chart, rendered by Helm's code and compared object by object with what the overlays render to."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from batcher.core.keys import prefix
from tests.repo.manifests import K8S, ROOT, Object, objects_in, of_kind, render, variant
from tests.repo.test_manifests import CLUSTER_ADDRESS, MANAGED, VARIANTS

CHART = ROOT / "charts/millrace"
MANAGED_ADDRESS = "millrace.westeurope.redis.azure.net:10000"


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / f"examples/{name}.yaml").read_text()))


def changed(**changes: dict[str, Any]) -> dict[str, Any]:
    """The values of examples/production.yaml with parts replaced."""
    values = example("production")
    return values | {name: values.get(name, {}) | part for name, part in changes.items()}


CASES = {
    "local": example("local"),
    "production": example("production"),
    "managed": changed(redis={"inside": False, "address": MANAGED_ADDRESS}, ingress={"kind": "ingress"}),
    "sentinel": changed(redis={"sentinels": True}),
    "sentinels beside a cluster": changed(
        redis={"sentinels": True, "clusterAddress": CLUSTER_ADDRESS, "shards": 3}
    ),
    "cluster": changed(redis={"clusterAddress": CLUSTER_ADDRESS, "shards": 3}),
    "gateway": changed(ingress={"kind": "gateway-api"}, networkPolicies={"tracing": True, "webhooks": True}),
    "defaults": {},
    "two redis": changed(
        redis={"inside": False, "address": "queue.example:6379", "jobsAddress": "jobs.example:6380"},
        settings={"MILLRACE_NAME": "reviews"},
    ),
    "long drain": changed(settings={"MILLRACE_DRAIN_S": "60.5", "MILLRACE_QUIET_S": 5}),
    "short drain": changed(settings={"MILLRACE_DRAIN_S": 1}),
    "no address": {"redis": {"inside": False}},
    "unknown ingress": {"ingress": {"kind": "nginx"}},
}


def helm(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What Helm's code renders for the values of each case, and what it finds."""
    pytest.importorskip("helm_python", reason="helm-python-sdk, which carries Helm's code, is missing")
    asked = {
        name: {"values": values, "namespace": "millrace-local" if name == "local" else "millrace"}
        for name, values in cases.items()
    }
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("helm_render.py")],
        input=json.dumps({"chart": str(CHART), "cases": asked}),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def rendered(once: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Any]:
    return dict(once("chart", lambda: helm(CASES)))


def chart(rendered: dict[str, Any], case: str) -> list[Object]:
    text = rendered["cases"][case]
    assert isinstance(text, str), text
    return objects_in(text)


def overlay(case: str, folder: Path) -> list[Object]:
    if case in VARIANTS:
        return render(variant(folder, *VARIANTS[case]))
    return render(K8S / "overlays" / case)


def compared(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Objects by kind and name, without what the two do differently.

    A generated ConfigMap has a digest in its name; the chart has one in an annotation of the pods. Lists of a
    pod with names are in no order. A Namespace is made by `helm install --create-namespace`.
    """
    text = json.dumps([thing for thing in objects if thing["kind"] != "Namespace"])
    for name, thing in of_kind(objects, "ConfigMap").items():
        if name.startswith(("settings-", "redis-")):
            text = text.replace(name, name.partition("-")[0])
            assert thing["data"]
    found = {}
    for thing in json.loads(text):
        thing["metadata"].get("labels", {}).pop("app.kubernetes.io/component", None)
        template = thing.get("spec", {}).get("template", {})
        if template:
            template["metadata"].pop("annotations", None)
            thing["spec"].setdefault("replicas", 1)
            pod = template["spec"]
            pod["volumes"].sort(key=lambda volume: volume["name"])
            for container in pod["containers"]:
                container["env"].sort(key=lambda variable: variable["name"])
                container["volumeMounts"].sort(key=lambda mount: mount["name"])
        found[thing["kind"], thing["metadata"]["name"]] = thing
    return found


@pytest.mark.parametrize("case", ["local", "production", *VARIANTS])
def test_the_chart_and_the_overlays_are_the_same_objects(
    rendered: dict[str, Any], case: str, tmp_path: Path
) -> None:
    ours, theirs = compared(chart(rendered, case)), compared(overlay(case, tmp_path))
    assert ours.keys() == theirs.keys()
    for key, thing in theirs.items():
        assert ours[key] == thing, key


def test_lint_finds_nothing(rendered: dict[str, Any]) -> None:
    assert [finding for finding in rendered["lint"]["messages"] if "icon" not in finding["error"]] == []


def test_the_defaults_need_no_custom_resources(rendered: dict[str, Any]) -> None:
    objects = chart(rendered, "defaults")
    kinds = {(thing["apiVersion"], thing["kind"]) for thing in objects}
    assert {version for version, _ in kinds} == {"v1", "apps/v1", "policy/v1"}
    assert {thing["spec"]["replicas"] for thing in of_kind(objects, "Deployment").values()} == {1}


@pytest.mark.parametrize(
    ("case", "api", "worker"), [("production", 30, 40), ("long drain", 81, 71), ("short drain", 30, 40)]
)
def test_pods_were_killed_before_a_longer_drain_ended(
    rendered: dict[str, Any], case: str, api: int, worker: int
) -> None:
    deployments = of_kind(chart(rendered, case), "Deployment")
    grace = {
        name: deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, deployment in deployments.items()
    }
    assert grace == {"api": api, "worker": worker, "jobs": 30}


def test_jobs_can_have_another_redis(rendered: dict[str, Any]) -> None:
    """A queue in a cluster needs it: jobs cannot be there."""
    objects = chart(rendered, "two redis")
    settings = of_kind(objects, "ConfigMap")["settings"]["data"]
    addresses = [settings["REDIS_ADDRESS"], settings["REDIS_JOBS_ADDRESS"]]
    assert addresses == ["queue.example:6379", "jobs.example:6380"]
    for name, deployment in of_kind(objects, "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        urls = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        assert "$(REDIS_ADDRESS)" in urls["MILLRACE_REDIS_URL"]
        assert ("$(REDIS_JOBS_ADDRESS)" in urls.get("MILLRACE_JOBS_REDIS_URL", "")) == (name != "worker")
    (rule,) = of_kind(objects, "NetworkPolicy")["to-managed-redis"]["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [6379, 6380]
    triggers = of_kind(objects, "ScaledObject")["worker"]["spec"]["triggers"]
    names = {trigger["metadata"]["listName"].partition("}")[0] for trigger in triggers}
    assert names == {prefix("reviews").rstrip("}")}


@pytest.mark.parametrize(
    ("case", "said"),
    [("no address", "redis.address is required"), ("unknown ingress", "'istio', 'gateway-api', 'ingress'")],
)
def test_impossible_values_are_refused(rendered: dict[str, Any], case: str, said: str) -> None:
    assert said in rendered["cases"][case]["error"]


def test_the_chart_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart_yaml = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart_yaml["appVersion"] == version
    assert chart_yaml["version"] == version.replace(".dev", "-dev"), "which Helm needs"
    assert MANAGED[1][1].endswith(MANAGED_ADDRESS)
