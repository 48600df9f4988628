"""Every value of the chart: what it changes in the objects, and that a misspelt one is refused by name."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from millrace.settings_loader import ADDRESS, known_variables
from model_store.__main__ import _parser as model_store_parser
from tests.limits import MIB
from tests.repo.manifests import FIELDS, Object, custom_kind, objects_in, of_kind
from tests.repo.test_chart import CHART, helm
from tests.repo.test_manifests import RELEASES

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DIGEST = "sha256:" + "a" * 64
EXTRA = {"name": "extra", "emptyDir": {"sizeLimit": "1Mi"}}
REDIS_IMAGE = f"mirror.example/redis:7.4@{DIGEST}"
MODEL = "org/name@0123456"
POD = "spec.template.spec"
BOX = f"{POD}.containers.0"
# What a value of all parts is set to, and the field of the workload that then has the last item.
PARTS: dict[str, tuple[Any, str, Any]] = {
    "resources": ({"limits": {"memory": "3Gi"}}, f"{BOX}.resources.limits.memory", "3Gi"),
    "nodeSelector": ({"pool": "amx"}, f"{POD}.nodeSelector.pool", "amx"),
    "tolerations": ([{"key": "spot", "operator": "Exists"}], f"{POD}.tolerations.0.key", "spot"),
    "affinity": (
        {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "amx", "operator": "Exists"}]}]
                }
            }
        },
        f"{POD}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms.0.matchExpressions.0.key",
        "amx",
    ),
    "topologySpreadConstraints": (
        [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        f"{POD}.topologySpreadConstraints.0.topologyKey",
        "rack",
    ),
    "priorityClassName": ("high", f"{POD}.priorityClassName", "high"),
    "podAnnotations": ({"example/team": "nlp"}, "spec.template.metadata.annotations.example/team", "nlp"),
    "extraEnv": ([{"name": "EXTRA", "value": "1"}], f"{BOX}.env.EXTRA.value", "1"),
    "extraVolumes": (
        [EXTRA],
        f"{POD}.volumes.extra.emptyDir.sizeLimit",
        "1Mi",
    ),
    "extraVolumeMounts": (
        [{"name": "extra", "mountPath": "/extra"}],
        f"{BOX}.volumeMounts./extra.name",
        "extra",
    ),
    "startupProbe": ({"failureThreshold": 999}, f"{BOX}.startupProbe.failureThreshold", 999),
    "readinessProbe": ({"timeoutSeconds": 9}, f"{BOX}.readinessProbe.timeoutSeconds", 9),
    "livenessProbe": ({"periodSeconds": 99}, f"{BOX}.livenessProbe.periodSeconds", 99),
}
PASSWORDS = {
    f"redis.passwords.{user}": "other"
    for user in ("api", "worker", "jobs", "autoscaler", "admin", "sentinel")
}
ANNOTATIONS = {"eks.amazonaws.com/role-arn": "role"}
HUB = {"worker.model.pull": MODEL, "worker.model.builder": "builder:1"}
INIT = f"Deployment/worker {POD}.initContainers.0"
SECRET = "Secret/redis-{} data.REDIS_PASSWORD"
# The other values by path: what it is set to, what else is set, and the field that then has the last item.
OTHERS: dict[str, tuple[Any, dict[str, Any], str, Any]] = {
    "images.registry": ("r.example", {}, f"Deployment/api {BOX}.image", r"r\.example/millrace-api:\S+"),
    "images.tag": ("1.2", {}, f"Deployment/jobs {BOX}.image", "millrace-api:1.2"),
    "images.pullPolicy": ("Always", {}, f"StatefulSet/redis {BOX}.imagePullPolicy", "Always"),
    "images.pullSecrets": (
        [{"name": "pull"}],
        {},
        f"Deployment/api {POD}.imagePullSecrets.pull.name",
        "pull",
    ),
    "images.api.repository": ("a/api", {}, f"Deployment/api {BOX}.image", r"a/api:\S+"),
    "images.api.tag": ("1.3", {"images.tag": "1.2"}, f"Deployment/api {BOX}.image", "millrace-api:1.3"),
    "images.api.digest": (DIGEST, {}, f"Deployment/api {BOX}.image", f"millrace-api@{DIGEST}"),
    "images.worker.repository": ("reviews", {}, f"Deployment/worker {BOX}.image", r"reviews:\S+"),
    "images.worker.tag": ("1.4", {}, f"Deployment/worker {BOX}.image", "millrace-worker:1.4"),
    "images.worker.digest": (DIGEST, {}, f"Deployment/worker {BOX}.image", f"millrace-worker@{DIGEST}"),
    "settings": ({"MILLRACE_THREADS": 3}, {}, "ConfigMap/settings data.MILLRACE_THREADS", "3"),
    "apiKeysSecret": (
        "keys",
        {},
        f"Deployment/api {BOX}.env.MILLRACE_API_KEYS.valueFrom.secretKeyRef.name",
        "keys",
    ),
    "api.autoscaling": ({"min": 3, "max": 5}, {}, "HorizontalPodAutoscaler/api spec.minReplicas", 3),
    "worker.autoscaling": ({"min": 1, "max": 7}, {}, "ScaledObject/worker spec.maxReplicaCount", 7),
    "api.replicas": (4, {}, "Deployment/api spec.replicas", 4),
    "worker.replicas": (5, {}, "Deployment/worker spec.replicas", 5),
    "jobs.replicas": (6, {}, "Deployment/jobs spec.replicas", 6),
    "worker.model.claim": (
        "models",
        {},
        f"Deployment/worker {POD}.volumes.model.persistentVolumeClaim.claimName",
        "models",
    ),
    "worker.model.path": (
        "topics/v2",
        {"worker.model.claim": "models"},
        f"Deployment/worker {BOX}.env.MILLRACE_MODEL.value",
        "/models/topics/v2",
    ),
    "worker.model.pull": (
        MODEL,
        HUB | {"worker.model.pull": "org/other@0123456"},
        f"{INIT}.env.MODEL.value",
        MODEL,
    ),
    "worker.model.builder": ("builder:2", HUB, f"{INIT}.image", "builder:2"),
    "worker.model.tokenSecret": (
        "hub",
        HUB,
        f"{INIT}.env.HF_TOKEN.valueFrom.secretKeyRef.name",
        "hub",
    ),
    "worker.model.size": ("9Gi", HUB, f"Deployment/worker {POD}.volumes.model.emptyDir.sizeLimit", "9Gi"),
    "worker.model.resources": (
        {"limits": {"memory": "6Gi"}},
        HUB,
        f"{INIT}.resources.limits.memory",
        "6Gi",
    ),
    "service.type": ("LoadBalancer", {}, "Service/api spec.type", "LoadBalancer"),
    "service.nodePort": (30801, {"service.type": "NodePort"}, "Service/api spec.ports.http.nodePort", 30801),
    "redis.inside": (False, {"redis.address": "r:6379"}, "ConfigMap/settings data.REDIS_ADDRESS", "r:6379"),
    "redis.address": ("r:6380", {}, "ConfigMap/settings data.REDIS_ADDRESS", "r:6380"),
    "redis.sentinels": (True, {}, "StatefulSet/redis spec.replicas", 3),
    "redis.tls": (True, {}, "ConfigMap/settings data.REDIS_SCHEME", "rediss"),
    "redis.jobsAddress": ("j:6379", {}, "ConfigMap/settings data.REDIS_JOBS_ADDRESS", "j:6379"),
    "redis.clusterAddress": ("c:6379", {}, "ConfigMap/settings data.REDIS_CLUSTER_ADDRESS", "c:6379"),
    "redis.shards": (4, {"redis.clusterAddress": "c:6379"}, "ConfigMap/settings data.MILLRACE_SHARDS", "4"),
    "redis.image": (REDIS_IMAGE, {}, f"StatefulSet/redis {BOX}.image", REDIS_IMAGE),
    "redis.storage": (
        "8Gi",
        {},
        "StatefulSet/redis spec.volumeClaimTemplates.0.spec.resources.requests.storage",
        "8Gi",
    ),
    "redis.storageClass": (
        "fast",
        {},
        "StatefulSet/redis spec.volumeClaimTemplates.0.spec.storageClassName",
        "fast",
    ),
    "redis.maxmemory": ("1gb", {}, "ConfigMap/redis data.redis/conf", r"(?s).*\nmaxmemory 1gb\n.*"),
    "ingress.kind": ("istio", {}, "VirtualService/millrace spec.gateways.0", "millrace"),
    "ingress.host": (
        "h.example",
        {"ingress.kind": "ingress"},
        "Ingress/millrace spec.rules.0.host",
        "h.example",
    ),
    "ingress.gatewayNamespace": (
        "edge",
        {"ingress.kind": "gateway-api"},
        "Gateway/millrace metadata.namespace",
        "edge",
    ),
    "ingress.istioGateway": (
        "edge",
        {"ingress.kind": "istio"},
        "Gateway/millrace spec.selector.istio",
        "edge",
    ),
    "ingress.class": (
        "nginx",
        {"ingress.kind": "ingress"},
        "Ingress/millrace spec.ingressClassName",
        "nginx",
    ),
    "ingress.annotations": (
        {"a/b": "c"},
        {"ingress.kind": "ingress"},
        "Ingress/millrace metadata.annotations.a/b",
        "c",
    ),
    "networkPolicies.enabled": (True, {}, "NetworkPolicy/default spec.policyTypes.0", "Ingress"),
    "networkPolicies.tracing": (True, {}, "ConfigMap/settings data.MILLRACE_TRACING", "true"),
    "networkPolicies.webhooks": (
        True,
        {"networkPolicies.enabled": True},
        "NetworkPolicy/to-webhooks spec.policyTypes.0",
        "Egress",
    ),
    "runbooks": (
        "https://wiki.example/millrace",
        {"monitoring": True},
        "PrometheusRule/millrace spec.groups.millrace.rules.0.annotations.runbook_url",
        "https://wiki.example/millrace#millracenoworker",
    ),
    "monitoring": (True, {}, "PodMonitor/millrace spec.podTargetLabels.0", "app.kubernetes.io/component"),
}


def values_of_all_parts() -> Iterator[tuple[str, tuple[Any, dict[str, Any], str, Any]]]:
    for part in ("api", "worker", "jobs", "redis"):
        workload = f"{'StatefulSet' if part == 'redis' else 'Deployment'}/{part}"
        for name, (value, path, found) in PARTS.items():
            extra = {f"{part}.extraVolumes": [EXTRA]} if name == "extraVolumeMounts" else {}
            yield f"{part}.{name}", (value, extra, f"{workload} {path}", found)
        account = f"ServiceAccount/{part} metadata.annotations.eks/amazonaws/com/role-arn"
        yield f"{part}.serviceAccount.annotations", (ANNOTATIONS, {}, account, "role")
    for path in PASSWORDS:
        yield path, ("secret", PASSWORDS, SECRET.format(path.rpartition(".")[2]), "c2VjcmV0")


VALUES = OTHERS | dict(values_of_all_parts())


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        inner = found
        *parents, last = path.split(".")
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = copy.deepcopy(value)
    return found


# All at once, but for those that exclude each other.
EVERYTHING = nested(
    {
        path: given
        for path, (given, _, _, _) in VALUES.items()
        if path not in ("worker.model.claim", "worker.model.path", "redis.inside", "redis.address")
    }
    | {"ingress.kind": "ingress", "service.type": "NodePort"}
)
MISSPELT: dict[str, dict[str, Any]] = {
    "monitor": {"monitor": True},
    "registery": {"images": {"registery": "r.example"}},
    "replicaCount": {"worker": {"replicaCount": 5}},
    "maximum": {"api": {"autoscaling": {"min": 1, "max": 2, "maximum": 3}}},
    "limit": {"jobs": {"resources": {"limit": {"cpu": "1"}}}},
    "memroy": {"redis": {"resources": {"limits": {"memroy": "1Gi"}}}},
    "effects": {"worker": {"tolerations": [{"key": "spot", "effects": "NoSchedule"}]}},
    "nodeSelectorTerm": {
        "worker": {
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerm": []}}
            }
        }
    },
    "claim": {"worker": {"extraVolumes": [{"name": "m", "persistentVolumeClaim": {"claim": "m"}}]}},
    "MILLRACE_TREADS": {"settings": {"MILLRACE_TREADS": "2"}},
    "operater": {"redis": {"passwords": {"operater": "secret"}}},
    "failureTreshold": {"worker": {"startupProbe": {"failureTreshold": 600}}},
    "labelSelector": {
        "api": {
            "topologySpreadConstraints": [
                {"topologyKey": "a", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
            ]
        }
    },
}
IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "from zero": ({"worker": {"autoscaling": {"min": 0, "max": 5}}}, "/worker/autoscaling"),
    "two models": (nested(HUB | {"worker.model.claim": "models"}), "choose one"),
    "no builder": (nested({"worker.model.pull": MODEL}), "worker.model.builder is required"),
    "a branch": (nested(HUB | {"worker.model.pull": "org/name@main"}), "/worker/model/pull"),
    "a tag as digest": ({"images": {"api": {"digest": "1.2"}}}, "/images/api/digest"),
    "a digest as tag": ({"images": {"tag": f"1.2@{DIGEST}"}}, "/images/tag"),
    "a registry that ends with a slash": ({"images": {"registry": "r.example/"}}, "/images/registry"),
    "a minimum above": ({"api": {"autoscaling": {"min": 5, "max": 3}}}, "api.autoscaling.min is above"),
    "no amount": ({"api": {"resources": {"requests": {"cpu": "lots"}}}}, "/api/resources/requests/cpu"),
    "no size": ({"redis": {"storage": "lots"}}, "/redis/storage"),
    "no port": ({"redis": {"inside": False, "address": "redis.example"}}, "/redis/address"),
    "a port that is none": ({"settings": {"MILLRACE_PORT": "http"}}, "/settings/MILLRACE_PORT"),
    "no port of workers": ({"settings": {"MILLRACE_WORKER_PORT": 0}}, "/settings/MILLRACE_WORKER_PORT"),
    "a port of no node": ({"service": {"nodePort": 30800}}, "service.nodePort needs service.type"),
    "a password that ends its URL": ({"redis": {"passwords": {"api": "a/b"}}}, "/redis/passwords/api"),
    "memory above the limit": ({"redis": {"maxmemory": "4gb"}}, "redis.maxmemory 4gb is not below"),
    "a model outside its volume": (
        nested({"worker.model.claim": "m", "worker.model.path": "../etc"}),
        "/path",
    ),
    "a folder of no volume": (
        nested({"worker.model.path": "topics"}),
        "worker.model.claim, which is not set",
    ),
    "no host": ({"ingress": {"kind": "istio", "host": ""}}, "ingress.host is required"),
    "another URL of Redis": ({"settings": {"MILLRACE_REDIS_URL": "redis://r"}}, "MILLRACE_REDIS_URL"),
    "another name of that": ({"settings": {"REDIS_URL": "redis://r"}}, "REDIS_URL"),
    "sentinels elsewhere": (
        {"redis": {"sentinels": True, "inside": False, "address": "r:6379"}},
        "redis.sentinels is for the Redis in the cluster",
    ),
    "a volume that is not there": (
        nested({"redis.extraVolumeMounts": [{"name": "tmp", "mountPath": "/extra"}]}),
        "redis.extraVolumeMounts has tmp, which is not a volume of the pod",
    ),
    "a volume twice": (
        nested({"worker.model.claim": "m", "worker.extraVolumes": [{"name": "model", "emptyDir": {}}]}),
        "worker.extraVolumes has model, which is there already",
    ),
    "a path twice": (
        nested({"api.extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}),
        "api.extraVolumeMounts has /tmp, which is there already",
    ),
    "a variable twice": (
        nested({"jobs.extraEnv": [{"name": "MILLRACE_REDIS_URL", "value": "redis://r"}]}),
        "jobs.extraEnv has MILLRACE_REDIS_URL, which is there already",
    ),
    "a setting that the chart reads": (
        nested({"api.extraEnv": [{"name": "MILLRACE_DRAIN_S", "value": "99"}]}),
        "api.extraEnv has MILLRACE_DRAIN_S, on which other objects depend",
    ),
    "a request above the limit": (
        nested({"worker.resources.limits": {"cpu": "500m"}}),
        "worker.resources.requests.cpu 2 is above its limit, 500m",
    ),
    "a builder of nothing": (
        nested({"worker.model.builder": "b:1"}),
        "worker.model.builder is for worker.model.pull",
    ),
    "a token for nothing": (nested({"worker.model.tokenSecret": "hub"}), "worker.model.tokenSecret is for"),
    "a model twice": (
        nested({"worker.model.claim": "m", "settings": {"MILLRACE_MODEL": "stub"}}),
        "settings.MILLRACE_MODEL would not be used",
    ),
    "a role without a password": (
        nested({"redis.passwords": {"api": "a", "jobs": "j"}}),
        "redis.passwords lacks worker",
    ),
    "sentinels without a password": (
        nested({"redis.sentinels": True, "redis.passwords": {"api": "a", "worker": "w", "jobs": "j"}}),
        "redis.passwords lacks sentinel",
    ),
    "shards of one side": (
        nested({"redis.clusterAddress": "c:6379", "settings": {"MILLRACE_SHARDS": 4}}),
        "use redis.shards",
    ),
    "neither keys nor open": ({"apiKeysSecret": ""}, "settings.MILLRACE_OPEN must be true"),
    "a drain of words": ({"settings": {"MILLRACE_DRAIN_S": "long"}}, "/settings/MILLRACE_DRAIN_S"),
    "only from inside the pod": (
        {"settings": {"MILLRACE_HOST": "127.0.0.1"}},
        "settings.MILLRACE_HOST 127.0.0.1",
    ),
    "IPv6 without brackets": (nested({"redis.address": "fd00::1:6379"}), "/redis/address"),
    "a URL as address": (nested({"redis.jobsAddress": "redis://j:6379"}), "/redis/jobsAddress"),
    "a password in an address": (nested({"redis.clusterAddress": "c:1,u:p@d:2"}), "/redis/clusterAddress"),
    "a port above all": (nested({"redis.address": "r:99999"}), "/redis/address"),
    "a URL as registry": ({"images": {"registry": "https://r.example"}}, "/images/registry"),
    "a tag in a repository": (nested({"images.api.repository": "a/api:1"}), "/images/api/repository"),
    "no image": (nested({"redis.image": "redis 7"}), "/redis/image"),
    "no name of a Secret": ({"apiKeysSecret": "My keys"}, "/apiKeysSecret"),
    "liveness after two": (nested({"api.livenessProbe": {"successThreshold": 2}}), "/api/livenessProbe"),
    "an empty class": (nested({"ingress.class": ""}), "/ingress/class"),
    "a host with two dots": (nested({"ingress.host": "a..b"}), "/ingress/host"),
    "keys twice": ({"settings": {"MILLRACE_API_KEYS": "a"}}, "MILLRACE_API_KEYS would not be used"),
}
SETTINGS = {"MILLRACE_MAX_JOBS_BYTES": 1073741824, "MILLRACE_DRAIN_S": 12.5, "MILLRACE_PAGE": False}
SETTINGS |= {"MILLRACE_PORT": 9000, "MILLRACE_WORKER_PORT": "9200"}
NODES = {"redis": {"clusterAddress": "a:7000,b:7001"}, "networkPolicies": {"enabled": True}}
MEMORY = (4294967296, "4e9", "1Ti", "2.5Gi", "2000000000000m")
CASES = (
    {
        "settings": {"settings": SETTINGS},
        "nodes": NODES,
        "plain": {},
        "everything": EVERYTHING,
        "IPv6": nested({"redis.inside": False, "redis.address": "[fd00::1]:6379"}),
        "jobs beside sentinels": nested({"redis.sentinels": True, "redis.jobsAddress": "j:6379"}),
        "sentinels and nodes": nested({"redis.sentinels": True, "redis.clusterAddress": "c:6379"}),
        "removed": {"api": dict.fromkeys(PARTS)},
    }
    | {f"memory {limit}": nested({"redis.resources.limits": {"memory": limit}}) for limit in MEMORY}
    | {
        "no limit": {"api": {"resources": {"limits": {"cpu": None}}}},
    }
    | {f"without {path}": nested(extra) for path, (_, extra, _, _) in VALUES.items()}
    | {f"with {path}": nested(extra | {path: value}) for path, (value, extra, _, _) in VALUES.items()}
    | {f"misspelt {name}": values for name, values in MISSPELT.items()}
    | {f"impossible {name}": values for name, (values, _) in IMPOSSIBLE.items()}
)


@pytest.fixture(scope="module")
def rendered(once: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Any]:
    given = {json.dumps(values): values for values in CASES.values()}
    found = once("chart-values", lambda: helm(given))["cases"]
    return {name: found[json.dumps(values)] for name, values in CASES.items()}


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of an object by dotted path. Items of a list with names or paths are called by them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key.replace('.', '/')}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            name = at
            if isinstance(inner, dict) and not path.endswith(("ontainers", "listeners", "servers")):
                name = inner.get("mountPath", inner.get("name", at))
            yield from leaves(inner, f"{path}.{name}")
    else:
        yield path.removeprefix("."), value


def flat(text: str) -> dict[str, object]:
    return {
        f"{thing['kind']}/{thing['metadata']['name']} {path}": value
        for thing in objects_in(text)
        for path, value in leaves(thing)
    }


@pytest.mark.parametrize("path", VALUES)
def test_a_value_reaches_the_object_that_it_is_about(rendered: dict[str, Any], path: str) -> None:
    """Sixteen of these were ignored without a word."""
    for name in (f"with {path}", f"without {path}"):
        assert isinstance(rendered[name], str), rendered[name]
    where, expected = VALUES[path][2:]
    after, before = flat(rendered[f"with {path}"]), flat(rendered[f"without {path}"])
    assert where in after, sorted(key for key in after if after[key] != before.get(key))
    if isinstance(expected, str) and "\\" in expected:
        assert re.fullmatch(expected, str(after[where]))
    else:
        assert after[where] == expected
    assert after[where] != before.get(where) or path == "redis.inside"


def own_values(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """The paths of the values that the schema itself describes, down to lists and maps."""
    for name, described in schema["properties"].items():
        inner = SCHEMA["$defs"]["image"] if described == {"$ref": "#/$defs/image"} else described
        inner_path = f"{path}.{name}".removeprefix(".")
        if "properties" in inner:
            yield from own_values(inner, inner_path)
        elif inner_path != "global":  # Helm's own
            yield inner_path


def test_every_value_of_the_schema_is_tried_and_documented() -> None:
    assert sorted(own_values(SCHEMA)) == sorted(VALUES)
    documented = yaml.safe_load((CHART / "values.yaml").read_text())
    assert documented["redis"].pop("passwords") == {}, "none by default"
    for path in VALUES:
        inner = documented
        for name in path.split(".") if not path.startswith("redis.passwords.") else ():
            assert name in inner, f"{path} is not in values.yaml"
            inner = inner[name]


def test_no_object_of_the_schema_takes_names_that_it_does_not_know() -> None:
    def check(schema: object, path: str) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict):
                assert schema.get("additionalProperties") is False, path
            for name, inner in schema.items():
                check(inner, f"{path}/{name}")

    check(SCHEMA, "")


def queues(rendered: str) -> dict[str, str]:
    """The URLs of Redis without users, as a pod gets them, by the process and the variable."""
    objects = objects_in(rendered)
    settings = of_kind(objects, "ConfigMap")["settings"]["data"]

    def filled(value: str) -> str:
        return re.sub(r"\$\((\w+)\)", lambda found: settings.get(found[1], ""), value).replace(":@", "")

    return {
        f"{name} {variable['name']}": filled(variable["value"])
        for name, thing in of_kind(objects, "Deployment").items()
        for variable in thing["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"].endswith("REDIS_URL")
    }


def test_jobs_beside_sentinels_were_looked_for_as_if_they_had_sentinels_too(rendered: dict[str, Any]) -> None:
    hosts = ",".join(f"redis-{at}.redis.millrace.svc.cluster.local:26379" for at in range(3))
    sentinels = f"redis+sentinel://{hosts}/millrace/0"
    found = queues(rendered["jobs beside sentinels"])
    assert found["worker MILLRACE_REDIS_URL"] == found["jobs MILLRACE_REDIS_URL"] == sentinels
    jobs = "redis://j:6379/0"
    assert found["api MILLRACE_JOBS_REDIS_URL"] == found["jobs MILLRACE_JOBS_REDIS_URL"] == jobs
    found = queues(rendered["sentinels and nodes"])
    assert found["jobs MILLRACE_REDIS_URL"] == "rediss+cluster://c:6379"
    assert found["api MILLRACE_JOBS_REDIS_URL"] == found["jobs MILLRACE_JOBS_REDIS_URL"] == sentinels


@pytest.mark.parametrize("limit", MEMORY)
def test_limits_of_memory_were_refused_in_units_that_kubernetes_knows(
    rendered: dict[str, Any], limit: object
) -> None:
    assert flat(rendered[f"memory {limit}"])[f"StatefulSet/redis {BOX}.resources.limits.memory"] == limit


def test_null_removes_what_was_given_for_a_part(rendered: dict[str, Any]) -> None:
    assert rendered["removed"] == rendered["plain"]


def test_an_address_may_be_ipv6(rendered: dict[str, Any]) -> None:
    assert flat(rendered["IPv6"])["ConfigMap/settings data.REDIS_ADDRESS"] == "[fd00::1]:6379"


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_value_was_ignored_without_a_word(rendered: dict[str, Any], name: str) -> None:
    assert name in rendered[f"misspelt {name}"]["error"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_values_are_refused_with_what_to_do(rendered: dict[str, Any], name: str) -> None:
    assert IMPOSSIBLE[name][1] in rendered[f"impossible {name}"]["error"]


def misspellings(value: object) -> Iterator[tuple[str, Any]]:
    """`value` with each of its names misspelt in turn. Those of maps that may have any name are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("nodeSelector", "podAnnotations", "annotations", "settings"):
                for name, changed in misspellings(inner):
                    yield name, value | {key: changed}
            yield f"{key}x", {f"{name}x" if name == key else name: one for name, one in value.items()}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for name, changed in misspellings(inner):
                yield name, [*value[:at], changed, *value[at + 1 :]]


def test_every_name_at_every_depth_is_refused_when_it_is_misspelt() -> None:
    validators = pytest.importorskip("jsonschema", reason="jsonschema is missing")
    validator = validators.Draft7Validator(SCHEMA)
    assert list(validator.iter_errors(EVERYTHING)) == []
    tried = list(misspellings(EVERYTHING))
    assert len(tried) > 150
    assert [name for name, values in tried if validator.is_valid(values)] == []


def test_all_values_at_once_fit_the_schemas_of_kubernetes_and_its_restricted_pods(
    rendered: dict[str, Any],
) -> None:
    utils = pytest.importorskip("kubernetes_validate.utils", reason="kubernetes-validate is missing")
    validate: Callable[..., object] = utils.validate
    objects = objects_in(rendered["everything"])
    for thing in objects:
        if custom_kind(thing) not in FIELDS:
            for release in RELEASES:
                validate(thing, release, strict=True)
    for workload in [*of_kind(objects, "Deployment").values(), of_kind(objects, "StatefulSet")["redis"]]:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "to-model-hub" in of_kind(objects, "NetworkPolicy")


def worker(text: str) -> dict[str, Any]:
    return dict(of_kind(objects_in(text), "Deployment")["worker"]["spec"]["template"]["spec"])


def test_the_init_container_runs_commands_that_exist_and_leaves_what_the_worker_reads(
    rendered: dict[str, Any],
) -> None:
    pod = worker(rendered["with worker.model.pull"])
    (init,), (container,) = pod["initContainers"], pod["containers"]
    shell, option, script = init["command"]
    assert (shell, option) == ("sh", "-c")
    words = shlex.split(script.replace('"$MODEL"', MODEL), posix=True)
    starts = [at for at, word in enumerate(words) if word == "model_store"]
    commands = [
        words[at + 1 :][: next(i for i, w in enumerate(words[at:]) if w in ("&&", "}")) - 1] for at in starts
    ]
    pull, build = [model_store_parser().parse_args([w.rstrip(";") for w in command]) for command in commands]
    assert (pull.reference, str(pull.to)) == (MODEL, build.model)
    folder = {entry["name"]: entry.get("value") for entry in container["env"]}["MILLRACE_MODEL"]
    assert str(build.out) == folder
    assert {mount["name"] for mount in init["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_limit_of_null_is_no_limit(rendered: dict[str, Any]) -> None:
    """It was rendered as `cpu: null`."""
    api: Object = of_kind(objects_in(rendered["no limit"]), "Deployment")["api"]
    (container,) = api["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].keys() == {"memory"}


def test_large_numbers_were_powers_of_ten_that_no_process_reads(rendered: dict[str, Any]) -> None:
    given = of_kind(objects_in(rendered["settings"]), "ConfigMap")["settings"]["data"]
    assert {name: given[name] for name in SETTINGS} == {
        "MILLRACE_MAX_JOBS_BYTES": "1073741824",
        "MILLRACE_DRAIN_S": "12.5",
        "MILLRACE_PAGE": "false",
        "MILLRACE_PORT": "9000",
        "MILLRACE_WORKER_PORT": "9200",
    }


def test_probes_asked_another_port_than_the_settings_opened(rendered: dict[str, Any]) -> None:
    deployments = of_kind(objects_in(rendered["settings"]), "Deployment")
    pods = {name: one["spec"]["template"]["spec"] for name, one in deployments.items()}
    ports = {
        name: [one["containerPort"] for one in pod["containers"][0]["ports"]] for name, pod in pods.items()
    }
    assert ports == {"api": [9000], "worker": [9200], "jobs": [9100]}


def test_policies_closed_the_ports_of_a_cluster(rendered: dict[str, Any]) -> None:
    policy = of_kind(objects_in(rendered["nodes"]), "NetworkPolicy")["to-redis-cluster"]
    (rule,) = policy["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} >= {7000, 7001}


def test_the_schema_knows_every_setting() -> None:
    """Without one of them, the chart would refuse it: add it to `settings` of values.schema.json."""
    (_, named) = SCHEMA["properties"]["settings"]["propertyNames"]["anyOf"]
    # Composed of the values of `redis`, and the user of each part. No process of the chart asks a service.
    assert named["enum"] == sorted(known_variables() - {"MILLRACE_REDIS_URL", "REDIS_URL", ADDRESS})


def definition(value: Any) -> Any:
    """A definition of Kubernetes without what only people read."""
    if isinstance(value, dict):
        return {
            key: definition(inner)
            for key, inner in value.items()
            if not (key == "description" and isinstance(inner, str)) and not key.startswith("x-")
        }
    return [definition(inner) for inner in value] if isinstance(value, list) else value


def test_affinities_and_volumes_are_those_of_kubernetes() -> None:
    utils = pytest.importorskip("kubernetes_validate.utils", reason="kubernetes-validate is missing")
    file = f"kubernetes-json-schema/v{RELEASES[-1]}.0-local-strict/_definitions.json"
    published = utils.schema_contents(file, RELEASES[-1])["$defs"]
    for name, ours in SCHEMA["$defs"].items():
        if name.startswith("io.k8s."):
            assert ours == definition(published[name]), name


def test_the_memory_of_redis_by_default_leaves_room_for_its_rewrite() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert int(values["redis"]["maxmemory"].removesuffix("mb")) * MIB * 2.5 < 2048 * MIB
