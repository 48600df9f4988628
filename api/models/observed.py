"""What /metrics and /stats show of all models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric

from api.backend import Hub
from api.metrics import QueueCollector
from api.models.served import ServedModel, ServedModels
from api.stats.frames import lane_facts, model_facts
from batcher.core.publications import model_of

# What concerns a queue. The rest concerns the service, and is shown once.
_OF_QUEUE = ("millrace_build", "millrace_queue_", "millrace_in_flight_", "millrace_workers")


def queue_metrics(models: Iterable[ServedModel]) -> Mapping[str, Iterable[Metric]]:
    """The state of all queues, by the names of the models."""
    return {model_of(served.queue): _metrics(served.hub, model_of(served.queue)) for served in models}


def _metrics(hub: Hub, name: str) -> Iterator[Metric]:
    for metric in QueueCollector(hub).collect():
        if not name or metric.name.startswith(_OF_QUEUE):
            yield metric


def models_facts(models: ServedModels) -> list[dict[str, Any]]:
    """Each model as frames have it, the first one included."""
    return [
        {
            "name": served.name,
            "model": model_facts(served.hub.snapshot.model),
            "workers": served.hub.snapshot.workers,
            "lanes": {
                "interactive": lane_facts(served.hub.snapshot.interactive),
                "bulk": lane_facts(served.hub.snapshot.bulk),
            },
        }
        for served in models
        if served.name
    ]
