"""What an API process counts: declared here, recorded through these methods alone.

docs/metrics.md says what each is for and who reads it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from math import inf
from pathlib import Path
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from api.backend import Cache, Hub
from api.predict.local_cache import LocalCache
from batcher.core.buckets import duration_bounds
from batcher.core.metrics import own_version
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)

OUTCOMES = (
    "hit_local",
    "hit_shared",
    "computed",
    "shed",
    "expired",
    "failed",
    "dead",
    "refused",
    "cancelled",
)
OUTCOME_OF: dict[type[MillraceError], str] = {
    QueueFull: "shed",
    BudgetExceeded: "expired",
    EntryFailed: "failed",
    EntryPoisoned: "dead",
    NoWorker: "refused",
    QueueUnavailable: "refused",
}
# Of `batcher.hub.dispatcher.HubCounts`: field -> what it counts.
HUB_COUNTS = {
    "queued": "Entries that this API put into the queue",
    "joined": "Entries that were in the queue or running already: single flight",
    "hinted": "Results that came by hint",
    "polled": "Results whose hint was lost, found by the slow poll",
    "asked_again": "Entries enqueued again: lost by Redis, or ended by another caller's deadline",
    "malformed": "Results that this version cannot read",
    "recovered": "Entries that sweeps of this API took back from dead workers",
    "round_trips": "Round trips of enqueue commands",
}


class Metrics:
    """The counters of one process. `registry` is what /metrics shows: them, and what `queue` collects.

    `shared_dir`: several processes serve one port, and PROMETHEUS_MULTIPROC_DIR named this directory before
    prometheus_client was imported. A scrape of any of them then adds up what all of them counted.
    """

    def __init__(
        self, budget_s: float, shared_dir: Path | None = None, queue: Collector | None = None
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the output, and no panel reads them
        self.version = own_version()
        self.registry = CollectorRegistry()
        self._counts = CollectorRegistry()
        registry = self._counts if shared_dir is None else None
        if shared_dir is None:
            ProcessCollector(registry=self.registry)  # with several, each scrape would show another one
        else:
            MultiProcessCollector(self._counts, str(shared_dir))  # type: ignore[no-untyped-call]
        self._shared_dir = shared_dir
        self.registry.register(self._counts)
        if queue is not None:
            self.registry.register(queue)
        self.bounds = duration_bounds(budget_s)
        self._requests = Counter(
            "millrace_requests", "HTTP requests by route and status", ["route", "status"], registry=registry
        )
        self._durations = Histogram(
            "millrace_request_duration_seconds",
            "From the first byte of the request to the answer",
            ["route"],
            buckets=self.bounds,
            registry=registry,
        )
        self._entries = Counter(
            "millrace_entries", "Texts by what became of them", ["outcome"], registry=registry
        )
        for outcome in OUTCOMES:
            self._entries.labels(outcome)
        self._clients = Counter(
            "millrace_client_requests",
            "Requests that showed an API key, by its name",
            ["client", "status"],
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"millrace_{name}", text, registry=registry, multiprocess_mode="livesum")
            for name, text in _GAUGES.items()
        }
        self._totals = {
            name: Counter(f"millrace_{name}", text, registry=registry) for name, text in _TOTALS.items()
        }
        self._published: dict[str, int] = {}
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._hit_local = self._entries.labels("hit_local")

    def request(self, route: str, status: int, seconds: float) -> None:
        """One answered request; 499 where the client left. `route` is a path template, or "other"."""
        pair = self._known.get((route, status))
        if pair is None:
            pair = self._requests.labels(route, str(status)), self._durations.labels(route)
            self._known[route, status] = pair
        pair[0].inc()
        pair[1].observe(seconds)

    def client(self, name: str, status: int) -> None:
        """One answered request of the API key of this name."""
        self._clients.labels(name, f"{status // 100}xx").inc()

    def hit_local(self, texts: int) -> None:
        """`texts` texts were answered from the in-process cache."""
        self._hit_local.inc(texts)

    def entries(self, outcome: str | MillraceError, texts: int = 1) -> None:
        """`texts` texts that ended like this: a name of OUTCOMES, or the error that answered them."""
        name = outcome if isinstance(outcome, str) else OUTCOME_OF.get(type(outcome), "failed")
        self._entries.labels(name).inc(texts)

    def read(self) -> tuple[dict[str, float], array[float]]:
        """Texts by outcome and the durations of POST /predict, since the start, of all processes.

        The durations have a count for each bucket of `bounds`, one for what is beyond, then their sum.
        """
        outcomes = dict.fromkeys(OUTCOMES, 0.0)
        below: dict[float, float] = {}
        total_s = 0.0
        for sample in (sample for metric in self._counts.collect() for sample in metric.samples):
            if sample.name == "millrace_entries_total":
                outcomes[sample.labels["outcome"]] = sample.value
            elif sample.labels.get("route") == "/predict":
                if sample.name == "millrace_request_duration_seconds_bucket":
                    below[float(sample.labels["le"])] = sample.value
                elif sample.name == "millrace_request_duration_seconds_sum":
                    total_s = sample.value
        counts = [below.get(bound, 0.0) for bound in (*self.bounds, inf)]
        return outcomes, array("d", [*map(float.__sub__, counts, [0.0, *counts]), total_s])

    def publish(self, local: LocalCache, hub: Hub, cache: Cache) -> None:
        """Copies what others count, each second and before each scrape; forgets gauges of ended processes."""
        self._gauges["local_cache_entries"].set(len(local))
        self._gauges["local_cache_bytes"].set(local.bytes)
        self._gauges["waiting_entries"].set(hub.waiting)
        totals = {f"hub_{name}": getattr(hub.counts, name) for name in HUB_COUNTS}
        totals["local_cache_evictions"] = local.evictions
        totals["redis_outages"] = hub.outage.count
        totals["cache_outages"] = cache.outage.count
        for name, total in totals.items():
            self._totals[name].inc(max(total - self._published.get(name, 0), 0))
        self._published = totals
        if self._shared_dir is not None:
            _forget_ended(self._shared_dir)


def _forget_ended(shared_dir: Path) -> None:
    for pid in {int(path.stem.rpartition("_")[2]) for path in shared_dir.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(shared_dir))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass


_TOTALS = {
    "local_cache_evictions": "Entries pushed out of the in-process cache",
    "redis_outages": "Times that this API lost Redis",
    "cache_outages": "Times that this API lost the Redis of the shared cache",
    **{f"hub_{name}": text for name, text in HUB_COUNTS.items()},
}
_GAUGES = {
    "local_cache_entries": "Predictions in the in-process cache",
    "local_cache_bytes": "Their size",
    "waiting_entries": "Texts that requests of this API wait for",
}


class QueueCollector(Collector):
    """The mill as the last sweep saw it: the same in every API process, so read, not counted."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        snapshot, model = self._hub.snapshot, self._hub.snapshot.model
        build = {"version": own_version(), "python": python_version()}
        if model is not None:
            build |= {
                "model": model.name,
                "revision": model.revision[:12],
                "engine": model.engine,
                "precision": model.precision,
            }
        yield InfoMetricFamily(
            "millrace_build", "Version of this API, and the model that workers publish", build
        )
        yield GaugeMetricFamily(
            "millrace_redis_up", "1 while Redis answers this API", float(self._hub.reachable)
        )
        memory = snapshot.memory
        yield GaugeMetricFamily(
            "millrace_redis_memory_bytes", "Memory that the queue's Redis uses", memory.used
        )
        yield GaugeMetricFamily(
            "millrace_redis_memory_limit_bytes",
            "Its maxmemory, or half of its machine without one",
            memory.limit,
        )
        lanes = {"interactive": snapshot.interactive, "bulk": snapshot.bulk}
        yield _by_lane(
            "millrace_queue_entries", "Entries waiting", {name: d.entries for name, d in lanes.items()}
        )
        yield _by_lane(
            "millrace_queue_cost_tokens", "Their estimated cost", {name: d.cost for name, d in lanes.items()}
        )
        oldest = {name: depth.oldest_ms / 1000 for name, depth in lanes.items()}
        yield _by_lane("millrace_queue_oldest_seconds", "Age of the first entry", oldest)
        yield GaugeMetricFamily(
            "millrace_queue_solo_entries", "Entries recovered from dead workers", snapshot.solo
        )
        yield GaugeMetricFamily("millrace_in_flight_entries", "Entries leased by workers", snapshot.in_flight)
        yield GaugeMetricFamily("millrace_workers", "Live workers", len(snapshot.workers))
        yield GaugeMetricFamily(
            "millrace_workers_rate_tokens", "Tokens per second of all workers", snapshot.rate
        )


def _by_lane(name: str, text: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["lane"])
    for lane, value in values.items():
        family.add_metric([lane], value)
    return family
