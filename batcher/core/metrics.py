"""Metrics that every process has: which version it is, and whether Redis answers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from batcher.core.outage import Outage


def redis_state(outage: Outage) -> Iterator[Metric]:
    """Whether Redis is there, and how often it was not."""
    yield GaugeMetricFamily("millrace_redis_up", "1 while Redis answers", float(outage.over))
    yield CounterMetricFamily("millrace_redis_outages", "Times that Redis was lost", outage.count)


def own_version() -> str:
    """Version of this program, or "unknown" where it is not installed as a package."""
    try:
        return version("millrace")
    except PackageNotFoundError:
        return "unknown"


def build(names: dict[str, str]) -> Metric:
    """Version of this program, and what else `names` it."""
    facts = {"version": own_version(), "python": python_version(), **names}
    return InfoMetricFamily("millrace_build", "Version and model", facts)
