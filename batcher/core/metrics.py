"""Metrics that every process exports: its version and the state of Redis."""

from __future__ import annotations

from collections.abc import Iterator
from platform import python_version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from batcher.version import own_version


def redis_state(up: bool, outages: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("millrace_redis_up", "1 while Redis answers", float(up))
    yield CounterMetricFamily("millrace_redis_outages", "Times that Redis became unavailable", outages)


def build(names: dict[str, str]) -> Metric:
    """The build information: version, Python and the other facts in `names`."""
    facts = {"version": own_version(), "python": python_version(), **names}
    return InfoMetricFamily("millrace_build", "Version and model", facts)
