"""Metrics of several models in one scrape: those of the first without, the others with the label `model`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

# Metrics of the process, which has only one of each.
_OF_PROCESS = ("process_", "python_")


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
