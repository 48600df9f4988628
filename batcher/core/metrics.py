"""Metrics that every process exports, buckets of durations, and metrics of several models in one scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from platform import python_version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from batcher.version import own_version

# The default of the API's `default_budget_s`. Workers do not know the configured value.
BUDGET_S = 10.0
# Metrics of the process, which has only one of each.
_OF_PROCESS = ("process_", "python_")


def redis_state(up: bool, outages: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("millrace_redis_up", "1 while Redis answers", float(up))
    yield CounterMetricFamily("millrace_redis_outages", "Times that Redis became unavailable", outages)


def build(names: dict[str, str], text: str = "Version and model") -> Metric:
    """The build information: version, Python and the other facts in `names`."""
    facts = {"version": own_version(), "python": python_version(), **names}
    return InfoMetricFamily("millrace_build", text, facts)


def labelled(
    metric: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float], *labels: str
) -> Metric:
    """`metric` with these values, by its last label; `labels` are the others."""
    for label, value in values.items():
        metric.add_metric([*labels, label], value)
    return metric


def duration_bounds(budget_s: float = BUDGET_S) -> tuple[float, ...]:
    """1, 2.5, 5, 10, ... from a tenth of a millisecond up to the budget, which is always the last bound."""
    steps = [step * 10.0**power for power in range(-4, 3) for step in (1.0, 2.5, 5.0)]
    return (*(round(step, 6) for step in steps if step < budget_s), float(budget_s))


class Scraped(Collector):
    """Reports what `read` yields at each scrape."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


class ByModel(Collector):
    """Merges the metrics of models by their names: "" is the first, whose samples get no label."""

    def __init__(self, parts: Callable[[], Mapping[str, Iterable[Metric]]]) -> None:
        self._parts = parts

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it collects nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for model, metrics in self._parts().items():
            for metric in metrics:
                if model:
                    if metric.name.startswith(_OF_PROCESS):
                        continue
                    metric.samples = [_of(model, sample) for sample in metric.samples]
                if metric.name in merged:
                    merged[metric.name].samples += metric.samples
                else:
                    merged[metric.name] = metric
        return iter(merged.values())


def _of(model: str, sample: Sample) -> Sample:
    labels = {**sample.labels, "model": model}
    return Sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
