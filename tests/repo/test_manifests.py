"""The Kubernetes manifests, checked as far as that goes without a cluster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ApiSettings
from batcher.core.keys import prefix
from batcher.settings import JobSettings, WorkerSettings
from millrace.settings_loader import known_variables
from tests.repo.manifests import FIELDS, K8S, ROOT, Object, of_kind, render, unknown_fields

# The oldest release that the manifests promise to work on (`sleep` in preStop), and the newest with schemas.
RELEASES = ("1.30", "1.37")
SETTINGS = {"api": ApiSettings, "worker": WorkerSettings, "jobs": JobSettings}
PORT_FIELDS = {
    "api": ("http", "port"),
    "worker": ("metrics", "worker_port"),
    "jobs": ("metrics", "jobs_port"),
}


@pytest.fixture(scope="module", params=["local", "production", "managed"])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Everything that an overlay renders to; `managed` is production over a Redis bought as a service."""
    if request.param != "managed":
        return render(K8S / "overlays" / request.param)
    return render(managed_overlay(tmp_path_factory.mktemp("managed")))


def managed_overlay(folder: Path) -> Path:
    """The change that docs/deploy.md describes, made to a copy of the production overlay."""
    shutil.copytree(K8S, folder / "k8s")
    overlay = folder / "k8s/overlays/production"
    text = (overlay / "kustomization.yaml").read_text()
    text = text.replace("components/redis-tls", "components/managed-redis")
    text = re.sub(r"REDIS_ADDRESS=\S+", "REDIS_ADDRESS=example.redis.cache.windows.net:6380", text)
    (overlay / "kustomization.yaml").write_text(text)
    return overlay


def deployments(objects: list[Object]) -> dict[str, Object]:
    return of_kind(objects, "Deployment")


def pod_specs(objects: list[Object]) -> dict[str, dict[str, Any]]:
    workloads = deployments(objects) | of_kind(objects, "StatefulSet")
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads.items()}


def config(objects: list[Object]) -> dict[str, str]:
    (settings,) = [m for name, m in of_kind(objects, "ConfigMap").items() if name.startswith("settings-")]
    return dict(settings["data"])


@pytest.fixture(scope="module")
def validate() -> Callable[..., object]:
    """kubernetes-validate, which would read the same large files again for every object."""
    validator = pytest.importorskip("kubernetes_validate.utils", reason="kubernetes-validate is missing")
    validator.schema_contents = cache(validator.schema_contents)
    return validator.validate  # type: ignore[no-any-return]


@pytest.mark.parametrize("release", RELEASES)
def test_objects_fit_the_schemas_of_kubernetes(
    objects: list[Object], release: str, validate: Callable[..., object]
) -> None:
    for thing in objects:
        if thing["kind"] not in FIELDS:
            validate(thing, release, strict=True)


def test_custom_resources_use_known_fields(objects: list[Object]) -> None:
    custom = [thing for thing in objects if thing["kind"] in FIELDS]
    assert [(thing["kind"], unknown_fields(thing)) for thing in custom if unknown_fields(thing)] == []


def test_an_invented_field_is_noticed() -> None:
    assert unknown_fields({"kind": "ScaledObject", "spec": {"minReplicas": 1}}) == ["minReplicas"]


def test_everything_lives_in_one_namespace_under_one_label_family(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    for thing in objects:
        assert thing["kind"] == "Namespace" or thing["metadata"]["namespace"] == namespace
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "millrace", thing["metadata"]["name"]
        # grafana_dashboard is what Grafana's sidecar looks for.
        families = ("app.kubernetes.io/", "pod-security.kubernetes.io/", "grafana_dashboard")
        assert all(key.startswith(families) for key in labels)


def test_redis_is_named_in_full_for_keda(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    address = config(objects)["REDIS_ADDRESS"]
    if "redis" in of_kind(objects, "Service"):
        assert address == f"redis.{namespace}.svc.cluster.local:6379"


def test_only_settings_that_exist_are_set(objects: list[Object]) -> None:
    for pod in pod_specs(objects).values():
        for container in pod["containers"]:
            names = {entry["name"] for entry in container.get("env", [])}
            names |= config(objects).keys() if container.get("envFrom") else set()
            assert {name for name in names if name.startswith("MILLRACE_")} <= known_variables()


def test_finding_18_production_asks_who_comes_and_counts_them() -> None:
    """Finding 18: keys come from a Secret, without which no API starts; no key stands in a manifest."""
    objects = render(K8S / "overlays/production")
    values = config(objects)
    assert values["MILLRACE_RATE_LIMIT"]
    assert values["MILLRACE_TRUST_PROXY"]
    assert "MILLRACE_API_KEYS" not in values
    (container,) = pod_specs(objects)["api"]["containers"]
    (keys,) = [entry for entry in container["env"] if entry["name"] == "MILLRACE_API_KEYS"]
    assert keys["valueFrom"]["secretKeyRef"] == {"name": "api-keys", "key": "digests"}
    assert values["MILLRACE_OPEN"] == "false"


@pytest.mark.parametrize("component", SETTINGS)
def test_settings_and_ports_agree(
    objects: list[Object], component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are accepted by the settings themselves, and probes and ports name what is opened."""
    for name, value in config(objects).items():
        monkeypatch.setenv(name, value)
    if config(objects).get("MILLRACE_OPEN") != "true":  # then they come from a Secret
        monkeypatch.setenv("MILLRACE_API_KEYS", "a" * 64)
    settings = SETTINGS[component]()
    port_name, field = PORT_FIELDS[component]
    (container,) = pod_specs(objects)[component]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        port_name: getattr(settings, field)
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == port_name
    if component == "api":
        assert getattr(settings, "host", None) == "0.0.0.0"


@pytest.mark.parametrize("component", SETTINGS)
def test_grace_is_longer_than_the_drain(objects: list[Object], component: str) -> None:
    pod = pod_specs(objects)[component]
    pause_s = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    default_s = getattr(SETTINGS[component](), "drain_s", 0.0)
    drain_s = float(config(objects).get("MILLRACE_DRAIN_S", default_s))
    assert pod["terminationGracePeriodSeconds"] >= pause_s + drain_s + 5


def test_probes_differ(objects: list[Object]) -> None:
    for name, pod in pod_specs(objects).items():
        (container,) = pod["containers"]
        ready, alive = container["readinessProbe"], container["livenessProbe"]
        assert container["startupProbe"], name
        if name != "redis":
            assert (ready["httpGet"]["path"], alive["httpGet"]["path"]) == ("/readyz", "/livez")
        patience = [probe["periodSeconds"] * probe["failureThreshold"] for probe in (alive, ready)]
        assert patience[0] > patience[1], f"{name}: a restart must not come before the traffic is gone"


def test_pods_are_restricted(objects: list[Object]) -> None:
    for name, pod in pod_specs(objects).items():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["serviceAccountName"] == name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
    for account in of_kind(objects, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_pinned(objects: list[Object]) -> None:
    for pod in pod_specs(objects).values():
        for container in pod["containers"]:
            image = container["image"]
            ours = re.fullmatch(r"(\S+/)?millrace-(api|worker):(local|\d+\.\d+\.\d+)", image)
            assert ours or re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_autoscalers_own_the_replicas(objects: list[Object]) -> None:
    targets = {
        scaler["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for scaler in of_kind(objects, kind).values()
    }
    assert targets <= {"api", "worker"}
    for name in ("api", "worker"):
        assert "replicas" not in deployments(objects)[name]["spec"]
    for name in deployments(objects):
        assert of_kind(objects, "PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1
        assert pod_specs(objects)[name]["topologySpreadConstraints"]


def test_workers_scale_by_the_lists_of_the_queue() -> None:
    """The source file, so that this holds without kustomize too."""
    (scaler,) = yaml.safe_load_all((K8S / "components/keda/scaledobject.yaml").read_text())
    spec = scaler["spec"]
    name = WorkerSettings().name
    keys = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
    assert keys == {
        "interactive": f"{prefix(name)}:q",
        "bulk": f"{prefix(name)}:bulk",
        "inflight": f"{prefix(name)}:inflight",
    }
    modifiers = spec["advanced"]["scalingModifiers"]
    assert set(re.findall(r"[a-z]+", modifiers["formula"])) == keys.keys()
    assert {trigger["metadata"]["listLength"] for trigger in spec["triggers"]} == {modifiers["target"]}
    assert {trigger["metadata"]["addressFromEnv"] for trigger in spec["triggers"]} == {"REDIS_ADDRESS"}
    assert (spec["minReplicaCount"], spec["pollingInterval"]) == (1, 5)


def test_redis_keeps_what_it_holds() -> None:
    lines = (K8S / "base/redis/redis.conf").read_text().splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction"} <= set(lines)


def test_only_the_three_reach_redis() -> None:
    objects = render(K8S / "overlays/production")
    policies = of_kind(objects, "NetworkPolicy")
    assert policies["default"]["spec"]["podSelector"] == {}
    assert policies["default"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    pods, keda = policies["redis"]["spec"]["ingress"][0]["from"]
    assert pods["podSelector"]["matchExpressions"][0]["values"] == list(SETTINGS)
    assert keda["podSelector"]["matchLabels"] == {"app": "keda-operator"}
    assert len(policies["redis"]["spec"]["ingress"]) == 1


def test_one_value_names_the_public_host() -> None:
    objects = render(K8S / "overlays/production")
    (host,) = of_kind(objects, "VirtualService")["millrace"]["spec"]["hosts"]
    servers = of_kind(objects, "Gateway")["millrace"]["spec"]["servers"]
    assert [server["hosts"] for server in servers] == [[host]] * len(servers)
    assert config(objects)["MILLRACE_ALLOWED_HOSTS"] == host
    assert "ingress" not in of_kind(objects, "ConfigMap")
    assert host in (K8S / "overlays/production/host.yaml").read_text()


def test_a_change_of_the_public_host_restarts_the_pods_that_check_it(tmp_path: Path) -> None:
    """The name of the ConfigMap contains the digest of its data, after the host has been copied into it."""
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s/overlays/production"
    before = render(K8S / "overlays/production")
    path = overlay / "host.yaml"
    path.write_text(path.read_text().replace("host: millrace.example.com", "host: other.example"))
    after = render(overlay)
    assert config(after)["MILLRACE_ALLOWED_HOSTS"] == "other.example"
    settings = [
        next(iter(pod_specs(objects)["api"]["containers"]))["envFrom"][0]["configMapRef"]["name"]
        for objects in (before, after)
    ]
    assert settings[0] != settings[1]


def test_every_manifest_is_part_of_an_overlay() -> None:
    """A file that no kustomization names would be silently left out of the cluster."""
    for folder in {path.parent for path in K8S.rglob("kustomization.yaml")}:
        text = (folder / "kustomization.yaml").read_text()
        for path in folder.iterdir():
            if path.is_file() and path.name != "kustomization.yaml":
                assert path.name in text, path.relative_to(ROOT)
