"""Every metric that the processes expose, and who asks for it: read from code, dashboards and alert rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeredis
import yaml
from prometheus_client import CollectorRegistry

from api.metrics import Metrics, queue_state
from batcher.connection.outage import Outage
from batcher.core.metrics import Scraped
from batcher.jobs.metrics import jobs_registry
from batcher.jobs.store import JobStore
from batcher.worker.drift import DriftWatch
from batcher.worker.metrics import WorkerMetrics
from model_store.stub import StubClassifier
from tests.unit.fakes import FakeHub

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s/components/monitoring"


@dataclass(frozen=True, slots=True)
class Exposed:
    """One metric of one process kind, as a scrape names it."""

    process: str
    name: str
    kind: str
    labels: tuple[str, ...]


class _Worker:
    """What WorkerMetrics reads of a worker."""

    state, stats = "idle", SimpleNamespace(rate=1.0)
    shard = SimpleNamespace(expired=0, skipped=0, outage=Outage())
    exchange = SimpleNamespace(parts={0: shard}, here=shard)

    def budget(self) -> int:
        return 256


@cache
def exposed() -> tuple[Exposed, ...]:
    """What the code declares, Millrace's own."""
    api = Metrics(10.0, queue=Scraped(lambda: queue_state(FakeHub())))
    info = StubClassifier().info
    worker = WorkerMetrics(info, DriftWatch(info))
    worker.attach(_Worker())  # type: ignore[arg-type]
    jobs = jobs_registry(JobStore(fakeredis.FakeRedis(), "default", 60), Outage())
    found = {
        Exposed(process, _scraped(metric.name, metric.type), metric.type, labels)
        for process, registry in (("api", api.registry), ("worker", worker.registry), ("jobs", jobs))
        for metric, labels in _families(registry)
        if metric.name.startswith("millrace_")
    }
    return tuple(sorted(found, key=lambda one: (one.process, one.name)))


def _families(registry: CollectorRegistry) -> Iterator[tuple[Any, tuple[str, ...]]]:
    for collector in list(registry._collector_to_names):
        if isinstance(collector, CollectorRegistry):
            yield from _families(collector)
            continue
        for metric in collector.collect():
            names = getattr(metric, "_labelnames", ())
            if metric.type in ("info",):
                names = ()
            if not names and hasattr(collector, "_labelnames"):
                names = collector._labelnames
            yield metric, tuple(names)


def _scraped(name: str, kind: str) -> str:
    return name + {"counter": "_total", "info": "_info"}.get(kind, "")


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    """Dashboards by the second half of their title."""
    read = [json.loads(path.read_text()) for path in sorted((MONITORING / "dashboards").glob("*.json"))]
    return {dashboard["title"].partition(" / ")[2]: dashboard for dashboard in read}


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Alert rules by name."""
    rule = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    return {rule["alert"]: rule for group in rule["spec"]["groups"] for rule in group["rules"]}


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every query of a dashboard."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def metrics_of(query: str) -> set[str]:
    """The metrics that a query names, as scrapes name them: without _bucket, _sum and _count."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bmillrace_\w+", query)}


def readers(name: str) -> list[str]:
    """Dashboards and alerts that ask for a metric."""
    boards = [title for title, one in dashboards().items() if name in metrics_of(" ".join(queries(one)))]
    rules = [alert for alert, rule in alerts().items() if name in metrics_of(rule["expr"])]
    return boards + rules
