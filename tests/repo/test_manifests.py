"""The Kubernetes manifests, checked as far as that goes without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ApiSettings
from batcher.core.keys import prefix
from batcher.settings import JobSettings, WorkerSettings
from batcher.shards import shards_of
from millrace.settings_loader import known_variables
from tests.limits import MIB, limit_bytes
from tests.repo.manifests import (
    FIELDS,
    K8S,
    ROOT,
    Object,
    custom_kind,
    of_kind,
    render,
    unknown_fields,
    variant,
)

# The oldest release that the manifests promise to work on (`sleep` in preStop), and the newest with schemas.
RELEASES = ("1.30", "1.37")
SETTINGS = {"api": ApiSettings, "worker": WorkerSettings, "jobs": JobSettings}
PORT_FIELDS = {
    "api": ("http", "port"),
    "worker": ("metrics", "worker_port"),
    "jobs": ("metrics", "jobs_port"),
}


# The changes to overlays/production that docs/kubernetes-redis.md describes.
MANAGED = (
    ("components/redis-tls", "components/managed-redis"),
    (r"REDIS_ADDRESS=\S+", "REDIS_ADDRESS=millrace.westeurope.redis.azure.net:10000"),
)
CLUSTER_ADDRESS = "millrace.westeurope.redis.azure.net:10000"
CLUSTER = (
    ("  - ../../components/redis-tls\n", r"\g<0>  - ../../components/redis-cluster\n"),
    (
        "      - REDIS_ADDRESS=redis.millrace.svc.cluster.local:6379\n",
        rf"\g<0>      - REDIS_CLUSTER_ADDRESS={CLUSTER_ADDRESS}\n",
    ),
)
SENTINELS = ",".join(f"redis-{number}.redis.millrace.svc.cluster.local:26379" for number in range(3))
SENTINEL = (
    ("  - ../../components/redis-tls\n", r"\g<0>  - ../../components/redis-sentinel\n"),
    (r"REDIS_ADDRESS=\S+", f"REDIS_ADDRESS={SENTINELS}"),
)
BOTH = (
    (
        "  - ../../components/redis-tls\n",
        r"\g<0>  - ../../components/redis-sentinel\n  - ../../components/redis-cluster\n",
    ),
    (r"REDIS_ADDRESS=\S+", rf"REDIS_ADDRESS={SENTINELS}\n      - REDIS_CLUSTER_ADDRESS={CLUSTER_ADDRESS}"),
)
VARIANTS = {
    "cluster": CLUSTER,
    "sentinel": SENTINEL,
    "sentinels beside a cluster": BOTH,
    "managed": (*MANAGED, ("components/istio", "components/ingress")),
    "gateway": (
        ("components/istio", "components/gateway-api"),
        ("  - ../../components/hpa\n", r"\g<0>  - ../../components/tracing\n  - ../../components/webhooks\n"),
    ),
}


@pytest.fixture(scope="module", params=["local", "production", *VARIANTS])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Everything that an overlay renders to."""
    if request.param in VARIANTS:
        return render(variant(tmp_path_factory.mktemp(request.param), *VARIANTS[request.param]))
    return render(K8S / "overlays" / request.param)


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
        if custom_kind(thing) not in FIELDS:
            validate(thing, release, strict=True)


def test_custom_resources_use_known_fields(objects: list[Object]) -> None:
    custom = [thing for thing in objects if custom_kind(thing) in FIELDS]
    assert [(thing["kind"], unknown_fields(thing)) for thing in custom if unknown_fields(thing)] == []


INVENTED = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": {"minReplicas": 1}}


def test_an_invented_field_is_noticed() -> None:
    assert unknown_fields(INVENTED) == ["minReplicas"]


def test_everything_lives_in_one_namespace_under_one_label_family(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    for thing in objects:
        # The Gateway of the Gateway API is in the namespace of the gateway's pods.
        if custom_kind(thing) not in ("/Namespace", "gateway.networking.k8s.io/Gateway"):
            assert thing["metadata"]["namespace"] == namespace
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "millrace", thing["metadata"]["name"]
        # grafana_dashboard is what Grafana's sidecar looks for.
        families = ("app.kubernetes.io/", "pod-security.kubernetes.io/", "grafana_dashboard")
        assert all(key.startswith(families) for key in labels)


def test_redis_is_named_in_full_for_keda(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    address = config(objects)["REDIS_ADDRESS"]
    if "redis" in of_kind(objects, "Service"):
        assert address in (f"redis.{namespace}.svc.cluster.local:6379", SENTINELS)


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
    monkeypatch.setattr("batcher.connection.redis_url._check_files", lambda options: None)
    (container,) = pod_specs(objects)[component]["containers"]
    known = config(objects) | {"REDIS_USERNAME": "user", "REDIS_PASSWORD": "secret"}
    for name, value in config(objects).items():
        monkeypatch.setenv(name, value)
    for variable in container["env"]:
        if "value" in variable:
            value = re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], variable["value"])
            monkeypatch.setenv(variable["name"], value)
    if config(objects).get("MILLRACE_OPEN") != "true":  # then they come from a Secret
        monkeypatch.setenv("MILLRACE_API_KEYS", "a" * 64)
    settings = SETTINGS[component]()
    port_name, field = PORT_FIELDS[component]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        port_name: getattr(settings, field)
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == port_name
    assert settings.host == "::"


@pytest.mark.parametrize("component", SETTINGS)
def test_grace_is_longer_than_the_drain(objects: list[Object], component: str) -> None:
    pod = pod_specs(objects)[component]
    pause_s = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    default_s = getattr(SETTINGS[component](), "drain_s", 0.0)
    drain_s = float(config(objects).get("MILLRACE_DRAIN_S", default_s))
    quiet_s = float(config(objects).get("MILLRACE_QUIET_S", 0.0)) if component == "api" else 0.0
    assert pod["terminationGracePeriodSeconds"] >= pause_s + quiet_s + drain_s + 5


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
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
    for account in of_kind(objects, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    (namespace,) = of_kind(objects, "Namespace").values()
    for mode in ("enforce", "warn", "audit"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_images_are_pinned(objects: list[Object]) -> None:
    for pod in pod_specs(objects).values():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            image = container["image"]
            ours = re.fullmatch(r"(\S+/)?millrace-(api|worker):(local|\d+\.\d+\.\d+(\.dev0)?)", image)
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
        "solo": f"{prefix(name)}:solo",
    }
    modifiers = spec["advanced"]["scalingModifiers"]
    assert set(re.findall(r"[a-z]+", modifiers["formula"])) == keys.keys()
    # KEDA reads the target of the formula; lengths of single lists would be ignored.
    assert all("listLength" not in trigger["metadata"] for trigger in spec["triggers"])
    assert {trigger["metadata"]["addressFromEnv"] for trigger in spec["triggers"]} == {"REDIS_ADDRESS"}
    assert (spec["minReplicaCount"], spec["pollingInterval"]) == (1, 5)


def test_texts_that_ran_alone_were_not_work_for_the_autoscaler(tmp_path: Path) -> None:
    """Each list of a shard counts in the same way in every arrangement."""
    one = yaml.safe_load((K8S / "components/keda/scaledobject.yaml").read_text())["spec"]
    several = render(variant(tmp_path, *CLUSTER))
    cluster = of_kind(several, "ScaledObject")["worker"]["spec"]
    lists = {trigger["metadata"]["listName"] for trigger in one["triggers"]}
    first_shard = {trigger["metadata"]["listName"] for trigger in cluster["triggers"]}
    assert lists <= first_shard
    assert len(first_shard) == 3 * len(lists)


@pytest.mark.parametrize("arrangement", ["production", "managed"])
def test_keda_uses_tls_for_every_list(tmp_path: Path, arrangement: str) -> None:
    changes = MANAGED if arrangement == "managed" else ()
    spec = of_kind(render(variant(tmp_path, *changes)), "ScaledObject")["worker"]["spec"]
    assert [trigger["metadata"].get("enableTLS") for trigger in spec["triggers"]] == ["true"] * 4


def test_a_lost_zone_was_a_lost_redis(tmp_path: Path) -> None:
    objects = render(variant(tmp_path, *SENTINEL))
    redis = of_kind(objects, "StatefulSet")["redis"]["spec"]
    pod = redis["template"]["spec"]
    labels = redis["template"]["metadata"]["labels"]
    assert (redis["replicas"], redis["podManagementPolicy"]) == (3, "Parallel")
    spread = {one["topologyKey"]: one for one in pod["topologySpreadConstraints"]}
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    assert "topology.kubernetes.io/zone" in spread
    assert all(one["labelSelector"]["matchLabels"] == labels for one in spread.values())
    assert {one["tolerationSeconds"] for one in pod["tolerations"]} == {30}
    assert of_kind(objects, "PodDisruptionBudget")["redis"]["spec"]["selector"]["matchLabels"] == labels
    for container in (*pod["initContainers"], *pod["containers"]):
        given = {entry["name"]: entry.get("value") for entry in container["env"]}
        names = given["REDIS_HOSTS"].replace("$(DOMAIN)", "redis.millrace.svc.cluster.local")
        assert ",".join(f"{name}:26379" for name in names.split()) == SENTINELS
    triggers = of_kind(objects, "ScaledObject")["worker"]["spec"]["triggers"]
    assert {trigger["type"] for trigger in triggers} == {"redis-sentinel"}
    assert {trigger["metadata"]["addressesFromEnv"] for trigger in triggers} == {"REDIS_ADDRESS"}
    policies = of_kind(objects, "NetworkPolicy")
    assert {port["port"] for port in policies["redis"]["spec"]["ingress"][0]["ports"]} == {
        "redis",
        "sentinel",
    }
    assert egress(objects, "to-redis") == [(set(), {6379, 26379})]
    for name in ("redis", "to-redis"):
        assert "redis" in yaml.safe_dump(policies[name]["spec"]).split("values:")[1].split("matchLabels")[0]


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


SITE = {
    "host": "texts.example",
    "gateway-namespace": "edge",
    "istio-gateway": "edge-gateway",
    "gateway-class": "edge-class",
    "runbooks": "https://wiki.example/millrace",
    "pod-network": "10.99.0.0/16",
}


def site_overlay(folder: Path, *changes: tuple[str, str]) -> Path:
    """A variant of the production overlay whose site.yaml has the values in SITE."""
    overlay = variant(folder, *changes)
    path = overlay / "site.yaml"
    site = yaml.safe_load(path.read_text())
    assert site["data"].keys() == SITE.keys()
    path.write_text(yaml.safe_dump({**site, "data": SITE}))
    return overlay


@pytest.mark.parametrize("ingress", ["istio", "gateway-api", "ingress"])
def test_site_yaml_is_the_only_file_that_a_cluster_changes(tmp_path: Path, ingress: str) -> None:
    before = render(K8S / "overlays/production")
    after = render(site_overlay(tmp_path, ("components/istio", f"components/{ingress}")))
    assert "site" not in of_kind(after, "ConfigMap")
    text = yaml.safe_dump([thing for thing in after if thing["kind"] != "ConfigMap"]) + str(config(after))
    links = {
        rule["annotations"]["runbook_url"]
        for group in of_kind(after, "PrometheusRule")["millrace"]["spec"]["groups"]
        for rule in group["rules"]
    }
    assert all(re.fullmatch(r"https://wiki\.example/millrace#millrace[a-z]+", link) for link in links)
    assert len(links) > 10
    for old in ("example.com", "aks-istio", "10.244", "gateway-class"):
        assert old not in text, old
    values = {name: config(after)[name] for name in ("MILLRACE_ALLOWED_HOSTS", "MILLRACE_TRUST_PROXY")}
    assert list(values.values()) == ["texts.example", "10.99.0.0/16"]
    (source,) = of_kind(after, "NetworkPolicy")["api"]["spec"]["ingress"][0]["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "edge"}
    # Settings with other values have another name, so that the pods restart.
    names = [set(of_kind(things, "ConfigMap")) for things in (before, after)]
    assert len(names[0] ^ names[1]) == 2


def test_each_ingress_is_for_the_same_paths_and_the_public_host(tmp_path: Path) -> None:
    rendered = {
        kind: render(site_overlay(tmp_path / kind, ("components/istio", f"components/{kind}")))
        for kind in ("istio", "gateway-api", "ingress")
    }
    service = of_kind(rendered["istio"], "VirtualService")["millrace"]["spec"]
    route = of_kind(rendered["gateway-api"], "HTTPRoute")["millrace"]["spec"]
    ingress = of_kind(rendered["ingress"], "Ingress")["millrace"]["spec"]
    paths = {next(iter(match["uri"].values())) for http in service["http"] for match in http["match"]}
    assert {match["path"]["value"] for rule in route["rules"] for match in rule["matches"]} == paths
    assert {path["path"] for path in ingress["rules"][0]["http"]["paths"]} == paths
    assert service["hosts"] == route["hostnames"] == ingress["tls"][0]["hosts"] == ["texts.example"]
    gateway = of_kind(rendered["gateway-api"], "Gateway")["millrace"]
    assert gateway["metadata"]["namespace"] == route["parentRefs"][0]["namespace"] == "edge"
    assert gateway["spec"]["gatewayClassName"] == ingress["ingressClassName"] == "edge-class"
    assert {listener["hostname"] for listener in gateway["spec"]["listeners"]} == {"texts.example"}
    assert of_kind(rendered["istio"], "Gateway")["millrace"]["spec"]["selector"] == {"istio": "edge-gateway"}


def test_production_survives_the_drain_of_a_node() -> None:
    """With one worker, draining its node answered 503 `no_worker` until another was ready."""
    objects = render(K8S / "overlays/production")
    assert of_kind(objects, "ScaledObject")["worker"]["spec"]["minReplicaCount"] == 2
    assert of_kind(objects, "HorizontalPodAutoscaler")["api"]["spec"]["minReplicas"] == 2
    assert deployments(objects)["jobs"]["spec"]["replicas"] == 2
    assert all(workload["spec"]["minReadySeconds"] > 0 for workload in deployments(objects).values())


def egress(objects: list[Object], policy: str) -> list[tuple[set[str], set[int]]]:
    """For each rule of a policy: the networks and namespaces that it allows, and the ports."""
    found = []
    for rule in of_kind(objects, "NetworkPolicy")[policy]["spec"]["egress"]:
        peers = set()
        for peer in rule.get("to", []):
            peers |= {peer["ipBlock"]["cidr"]} if "ipBlock" in peer else set()
            peers |= set(peer.get("namespaceSelector", {}).get("matchLabels", {}).values())
        found.append((peers, {port["port"] for port in rule["ports"]}))
    return found


def test_dns_is_allowed_to_caches_on_the_node_too() -> None:
    """They answer from a link-local address, which belongs to no pod."""
    objects = render(K8S / "overlays/production")
    assert egress(objects, "default") == [({"kube-system", "169.254.0.0/16"}, {53})]


def test_the_ports_of_redis_and_of_the_collector_are_open(tmp_path: Path) -> None:
    managed = render(variant(tmp_path / "managed", *MANAGED))
    port = int(config(managed)["REDIS_ADDRESS"].rpartition(":")[2])
    assert egress(managed, "to-managed-redis") == [(set(), {port})]
    traced = render(variant(tmp_path / "traced", *VARIANTS["gateway"]))
    host, _, port_text = config(traced)["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://").partition(":")
    assert egress(traced, "to-collector") == [({host.split(".")[1]}, {int(port_text)})]


def test_every_manifest_is_part_of_an_overlay() -> None:
    """A file that no kustomization names would be silently left out of the cluster."""
    for folder in {path.parent for path in K8S.rglob("kustomization.yaml")}:
        text = (folder / "kustomization.yaml").read_text()
        for path in folder.iterdir():
            if path.is_file() and path.name != "kustomization.yaml":
                assert path.name in text, path.relative_to(ROOT)


def test_a_cluster_has_a_trigger_for_each_shard_and_jobs_a_redis_beside_it(tmp_path: Path) -> None:
    """What KEDA counts is what the settings split the queue into, whatever the number is."""
    overlay = variant(tmp_path, *CLUSTER)
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts/shards", tmp_path / "scripts")
    found = []
    for shards in (5, 3):
        subprocess.run([sys.executable, script, str(shards)], check=True)
        render.cache_clear()
        objects = render(overlay)
        assert config(objects)["MILLRACE_SHARDS"] == str(shards)
        spec = of_kind(objects, "ScaledObject")["worker"]["spec"]
        lists = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
        prefixes = [shard.prefix for shard in shards_of("default", ["redis+cluster://a"], shards)]
        assert sorted(lists.values()) == sorted(
            f"{prefix}:{name}" for prefix in prefixes for name in ("q", "inflight", "solo", "bulk")
        )
        formula = spec["advanced"]["scalingModifiers"]["formula"]
        assert sorted(re.findall(r"[a-z]+\d+", formula)) == sorted(lists)
        found.append((tmp_path / "k8s/components/redis-cluster/scaledobject.yaml").read_text())
    assert found[-1] == (K8S / "components/redis-cluster/scaledobject.yaml").read_text()
    assert "redis" in of_kind(objects, "StatefulSet"), "for jobs"


@pytest.mark.parametrize("role", ["api", "worker", "jobs", "redis"])
def test_units_and_compose_limit_memory_as_the_manifests_do(role: str) -> None:
    (unit,) = (ROOT / "packaging/systemd").glob(f"millrace-{role}*.service")
    limits = re.findall(r"^MemoryMax=(\d+[MG])$", unit.read_text(), re.MULTILINE)
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][role]
    if "mem_limit" in service:
        limits.append(service["mem_limit"].upper())
    assert {int(one[:-1]) * MIB * (1024 if one[-1] == "G" else 1) for one in limits} == {limit_bytes(role)}
