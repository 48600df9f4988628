"""What the manifests render to, and the fields of the custom resources in them that are known to exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.tools import needs

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
Object = dict[str, Any]

# Names of fields in the published custom resource definitions, for what cannot be validated with the schemas
# of Kubernetes itself: KEDA 2.17 (ScaledObject, TriggerAuthentication), Istio 1.24, Gateway API 1.2,
# Prometheus operator 0.80. The keys are the group of the API and the kind.
# `*` is any key. Only what is listed may be used; add a field here after looking it up there.
FIELDS: dict[str, str] = {
    "keda.sh/ScaledObject": """
        scaleTargetRef.name scaleTargetRef.kind pollingInterval cooldownPeriod minReplicaCount maxReplicaCount
        fallback.failureThreshold fallback.replicas fallback.behavior
        advanced.scalingModifiers.formula advanced.scalingModifiers.target
        advanced.scalingModifiers.activationTarget advanced.scalingModifiers.metricType
        advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.stabilizationWindowSeconds
        advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.selectPolicy
        advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.policies.type
        advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.policies.value
        advanced.horizontalPodAutoscalerConfig.behavior.scaleUp.policies.periodSeconds
        advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds
        advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.selectPolicy
        advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.type
        advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.value
        advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.periodSeconds
        triggers.type triggers.name triggers.metricType triggers.useCachedMetrics
        triggers.authenticationRef.name triggers.metadata.addressFromEnv triggers.metadata.addressesFromEnv
        triggers.metadata.sentinelMaster triggers.metadata.listName
        triggers.metadata.databaseIndex triggers.metadata.enableTLS""",
    "keda.sh/TriggerAuthentication": "secretTargetRef.parameter secretTargetRef.name secretTargetRef.key",
    "monitoring.coreos.com/PodMonitor": """
        selector.matchLabels.* selector.matchExpressions.key selector.matchExpressions.operator
        selector.matchExpressions.values podTargetLabels jobLabel
        podMetricsEndpoints.port podMetricsEndpoints.path podMetricsEndpoints.interval
        podMetricsEndpoints.scrapeTimeout""",
    "monitoring.coreos.com/PrometheusRule": """
        groups.name groups.interval groups.rules.record groups.rules.alert groups.rules.expr groups.rules.for
        groups.rules.keep_firing_for groups.rules.labels.* groups.rules.annotations.*""",
    "networking.istio.io/Gateway": """
        selector.* servers.hosts servers.name servers.port.number servers.port.name servers.port.protocol
        servers.tls.mode servers.tls.credentialName servers.tls.httpsRedirect""",
    "networking.istio.io/VirtualService": """
        hosts gateways http.name http.match.uri.exact http.match.uri.prefix http.match.method.exact
        http.timeout http.retries.attempts
        http.route.destination.host http.route.destination.port.number""",
    "gateway.networking.k8s.io/Gateway": """
        gatewayClassName listeners.name listeners.protocol listeners.port listeners.hostname
        listeners.tls.mode listeners.tls.certificateRefs.name listeners.allowedRoutes.namespaces.from
        listeners.allowedRoutes.namespaces.selector.matchLabels.*""",
    "gateway.networking.k8s.io/HTTPRoute": """
        hostnames parentRefs.name parentRefs.namespace parentRefs.sectionName rules.matches.path.type
        rules.matches.path.value rules.matches.method rules.timeouts.request rules.backendRefs.name
        rules.backendRefs.port
        rules.filters.type rules.filters.requestRedirect.scheme rules.filters.requestRedirect.statusCode""",
}


@cache
def render(folder: Path) -> list[Object]:
    """The objects of an overlay. Skips where neither kustomize nor kubectl is on PATH."""
    program = needs("kustomize")
    verb = "kustomize" if Path(program).name == "kubectl" else "build"
    done = subprocess.run([program, verb, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return objects_in(done.stdout)


def objects_in(text: str) -> list[Object]:
    """The objects in YAML documents, read by libyaml where it is at hand: the dashboards are large."""
    return [thing for thing in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if thing]


def variant(folder: Path, *changes: tuple[str, str]) -> Path:
    """The production overlay in a copy of the manifests, with its kustomization.yaml changed by patterns."""
    shutil.copytree(K8S, folder / "k8s")
    overlay = folder / "k8s/overlays/production"
    text = (overlay / "kustomization.yaml").read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    (overlay / "kustomization.yaml").write_text(text)
    return overlay


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """The objects of one kind by name."""
    return {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == kind}


def custom_kind(thing: Object) -> str:
    """The key of an object in FIELDS: `keda.sh/ScaledObject`."""
    return f"{thing['apiVersion'].rpartition('/')[0]}/{thing['kind']}"


def fields(value: object, path: str = "") -> Iterator[str]:
    """The dotted paths of the leaves; list positions are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key.replace('.', '/')}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, path)
    else:
        yield path


def unknown_fields(thing: Object) -> list[str]:
    """Fields of a custom resource's spec that FIELDS does not know."""
    known = set(FIELDS[custom_kind(thing)].split())

    def is_known(path: str) -> bool:
        return path in known or f"{path.rpartition('.')[0]}.*" in known

    return sorted({path for path in fields(thing["spec"]) if not is_known(path)})
