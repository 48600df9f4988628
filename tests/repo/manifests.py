"""What the manifests render to, and the fields of the custom resources in them that are known to exist."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
Object = dict[str, Any]

# Names of fields in the published custom resource definitions, for what cannot be validated with the schemas
# of Kubernetes itself: KEDA 2.17 (ScaledObject, TriggerAuthentication), Istio 1.24, Prometheus operator 0.80.
# `*` is any key. Only what is listed may be used; add a field here after looking it up there.
FIELDS: dict[str, str] = {
    "ScaledObject": """
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
        triggers.authenticationRef.name triggers.metadata.addressFromEnv
        triggers.metadata.listName triggers.metadata.listLength
        triggers.metadata.databaseIndex triggers.metadata.enableTLS""",
    "TriggerAuthentication": "secretTargetRef.parameter secretTargetRef.name secretTargetRef.key",
    "PodMonitor": """
        selector.matchLabels.* selector.matchExpressions.key selector.matchExpressions.operator
        selector.matchExpressions.values podTargetLabels jobLabel
        podMetricsEndpoints.port podMetricsEndpoints.path podMetricsEndpoints.interval
        podMetricsEndpoints.scrapeTimeout""",
    "PrometheusRule": """
        groups.name groups.interval groups.rules.record groups.rules.alert groups.rules.expr groups.rules.for
        groups.rules.keep_firing_for groups.rules.labels.* groups.rules.annotations.*""",
    "Gateway": """
        selector.* servers.hosts servers.name servers.port.number servers.port.name servers.port.protocol
        servers.tls.mode servers.tls.credentialName servers.tls.httpsRedirect""",
    "VirtualService": """
        hosts gateways http.name http.match.uri.exact http.match.uri.prefix http.timeout http.retries.attempts
        http.route.destination.host http.route.destination.port.number""",
}


@cache
def render(folder: Path) -> list[Object]:
    """The objects of an overlay. Skips where no kustomize is at hand."""
    if kustomize := shutil.which("kustomize"):
        command = [kustomize, "build", str(folder)]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", str(folder)]
    else:
        pytest.skip("neither kustomize nor kubectl is on PATH")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """The objects of one kind by name."""
    return {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == kind}


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
    known = set(FIELDS[thing["kind"]].split())

    def is_known(path: str) -> bool:
        return path in known or f"{path.rpartition('.')[0]}.*" in known

    return sorted({path for path in fields(thing["spec"]) if not is_known(path)})
