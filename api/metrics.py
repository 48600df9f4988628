"""The metrics of an API process. All of them are declared here, and recorded through the methods of Metrics.

docs/metrics.md describes what each metric is for and where it is used.
"""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from batcher import errors
from batcher.core.metrics import build, duration_bounds, labelled
from batcher.core.snapshot import LaneDepth
from batcher.lookup.backend import Cache, Hub
from batcher.lookup.queue import LocalCache
from batcher.publishing.shadow import SCORE_STEP, label_pairs
from batcher.version import own_version

# With more labels than this, the pairs of labels are not metrics: they could be too many series.
MAX_LABELS = 20
# The most requests with one route and status before they are added up.
MAX_NOTED = 256
OUTCOME_OF: dict[type[errors.MillraceError], str] = {
    errors.QueueFull: "shed",
    errors.BudgetExceeded: "expired",
    errors.EntryFailed: "failed",
    errors.EntryPoisoned: "dead",
    errors.TextUnknown: "failed",
    errors.TextTooSlow: "refused",
    errors.NoWorker: "refused",
    errors.Paused: "refused",
    errors.QueueUnavailable: "refused",
}
OUTCOMES = ("hit_local", "hit_shared", "computed", *dict.fromkeys(OUTCOME_OF.values()), "cancelled")
# The fields of `batcher.hub.dispatcher.HubCounts`, and what they count.
HUB_COUNTS = {
    "queued": "Entries that this API enqueued",
    "joined": "Entries that were queued or running already (single flight)",
    "hinted": "Results announced by a hint",
    "polled": "Results whose hint was lost, found by the slow poll",
    "asked_again": "Entries enqueued again because Redis lost them or another caller's deadline ended them",
    "malformed": "Results that this version cannot read",
    "recovered": "Entries that sweeps of this API recovered from dead workers",
    "round_trips": "Round trips of enqueue commands",
}


# Counters, what they count, and their labels. The label `model` is the name that clients use.
_COUNTERS: dict[str, tuple[str, list[str]]] = {
    "requests": ("HTTP requests by route and status", ["route", "status"]),
    "entries": ("Texts by outcome", ["outcome"]),
    "client_requests": ("Requests with a valid API key, by the name of the key", ["client", "status"]),
    "cascade_texts": ("Texts that a cascade answered, by the model that answered", ["cascade", "model"]),
    "shadow_texts": ("Texts that a shadow got: same label, another, failed or dropped", ["model", "outcome"]),
    "shadow_labels": (
        "Texts by the label of the revision that answers and that of the shadow",
        ["model", "current", "candidate"],
    ),
    "shadow_score_difference": ("Sum over texts of the mean absolute difference of scores", ["model"]),
    "shadow_model_seconds": ("Each text's part of its forward pass", ["model", "revision"]),
    "local_cache_evictions": ("Entries evicted from the in-process cache", []),
    "redis_outages": ("Times that this API lost the connection to Redis", []),
    "cache_outages": ("Times that this API lost the connection to the Redis of the shared cache", []),
    **{f"hub_{name}": (text, []) for name, text in HUB_COUNTS.items()},
}
_GAUGES = {
    "local_cache_entries": "Predictions in the in-process cache",
    "local_cache_bytes": "Memory used by the predictions in the in-process cache",
    "waiting_entries": "Texts that requests to this API are waiting for",
}


class Metrics:
    """The counters of one process. /metrics shows `registry`: these counters, and what `queue` collects.

    If several processes share a port, `shared_dir` is the directory of their counters: a scrape of any of
    them sums up all. PROMETHEUS_MULTIPROC_DIR must name it before prometheus_client is imported.
    """

    def __init__(
        self, budget_s: float, shared_dir: Path | None = None, queue: Collector | None = None
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the output, and no dashboard uses them
        self.version = own_version()
        self.registry = CollectorRegistry()
        self._counts = CollectorRegistry()
        registry = self._counts if shared_dir is None else None
        if shared_dir is None:
            ProcessCollector(registry=self.registry)  # a scrape reaches any one of several processes
        else:
            MultiProcessCollector(self._counts, str(shared_dir))  # type: ignore[no-untyped-call]
        self._shared_dir = shared_dir
        self.registry.register(self._counts)
        if queue is not None:
            self.registry.register(queue)
        self.bounds = duration_bounds(budget_s)
        self._durations = Histogram(
            "millrace_request_duration_seconds",
            "Time from the first byte of the request to the response",
            ["route"],
            buckets=self.bounds,
            registry=registry,
        )
        self._counters = {
            name: Counter(f"millrace_{name}", text, labels, registry=registry)
            for name, (text, labels) in _COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"millrace_{name}", text, registry=registry, multiprocess_mode="livesum")
            for name, text in _GAUGES.items()
        }
        self._published: dict[str, int] = {}
        # What `add_up` has not counted yet: durations by route and status, and texts by outcome.
        self._answered = defaultdict[tuple[str, int], list[float]](list)
        self._texts = dict.fromkeys(OUTCOMES, 0)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request; status 499 if the client disconnected. `route` is a path template, or "other"."""
        durations = self._answered[route, status]
        durations.append(seconds)
        if len(durations) >= MAX_NOTED:
            self.add_up()

    def add_up(self) -> None:
        """Counts what was noted since the last call: many requests together take a fraction of the time."""
        for (route, status), durations in self._answered.items():
            self._add("requests", len(durations), route, str(status))
            observe = self._durations.labels(route).observe
            for seconds in durations:
                observe(seconds)
        self._answered.clear()
        for outcome, texts in self._texts.items():
            self._add("entries", texts, outcome)
        self._texts = dict.fromkeys(OUTCOMES, 0)

    def shadow(self, model: str, counts: Mapping[str, int]) -> None:
        """Adds what a shadow has counted (`batcher.publishing.shadow`)."""
        texts = counts.get("texts", 0)
        agree = counts.get("agree", 0)
        outcomes = {"same": agree, "changed": texts - agree}
        outcomes |= {name: counts.get(name, 0) for name in ("failed", "dropped")}
        for outcome, count in outcomes.items():
            self._add("shadow_texts", count, model, outcome)
        if not texts:
            return
        labels = counts.get("scores", 0) // texts
        difference = counts.get("difference", 0) * SCORE_STEP / labels
        self._add("shadow_score_difference", difference, model)
        for revision in ("current", "candidate"):
            self._add("shadow_model_seconds", counts.get(f"{revision}_text_us", 0) / 1e6, model, revision)
        if labels <= MAX_LABELS:
            for pair, count in label_pairs(counts).items():
                self._add("shadow_labels", count, model, *pair)

    def _add(self, name: str, count: float, *labels: str) -> None:
        self._counters[name].labels(*labels).inc(count)

    def client(self, name: str, status: int) -> None:
        """Counts a request with the API key of this name."""
        self._add("client_requests", 1, name, f"{status // 100}xx")

    def entries(self, outcome: str | type[errors.MillraceError], texts: int) -> None:
        """Counts texts with this outcome: a name from OUTCOMES, or the class of the error they ended with."""
        name = outcome if isinstance(outcome, str) else OUTCOME_OF.get(outcome, "failed")
        self._texts[name] += texts

    def cascade(self, name: str, model: str, texts: int) -> None:
        """Counts texts of a cascade that this member has answered."""
        self._add("cascade_texts", texts, name, model)

    def cascade_texts(self) -> dict[str, dict[str, int]]:
        """The texts that each member of each cascade has answered, in all processes since startup."""
        found: dict[str, dict[str, int]] = {}
        for sample in (sample for metric in self._cascade_counts() for sample in metric.samples):
            if sample.name == "millrace_cascade_texts_total":
                found.setdefault(sample.labels["cascade"], {})[sample.labels["model"]] = int(sample.value)
        return found

    def _cascade_counts(self) -> Iterable[Metric]:
        if self._shared_dir is None:
            return self._counters["cascade_texts"].collect()
        files = map(str, self._shared_dir.glob("counter_*.db"))
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged

    def read(self) -> tuple[dict[str, float], array[float]]:
        """Returns texts by outcome, and the durations of POST /predict, of all processes since startup.

        The durations are a count per bucket of `bounds`, a count of longer durations, and their sum.
        """
        self.add_up()
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

    def publish(self, local: LocalCache, hubs: Sequence[Hub], caches: Sequence[Cache]) -> None:
        """Copies the counts of other objects, every second and before each scrape: those of all models.

        Also removes the gauges of processes that have ended.
        """
        self.add_up()
        self._gauges["local_cache_entries"].set(len(local))
        self._gauges["local_cache_bytes"].set(local.bytes)
        self._gauges["waiting_entries"].set(sum(hub.waiting for hub in hubs))
        totals = {f"hub_{name}": sum(getattr(hub.counts, name) for hub in hubs) for name in HUB_COUNTS}
        totals["local_cache_evictions"] = local.evictions
        totals["redis_outages"] = sum(hub.outages for hub in hubs)
        totals["cache_outages"] = sum(cache.outages for cache in caches)
        for name, total in totals.items():
            self._counters[name].inc(max(total - self._published.get(name, 0), 0))
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


# What the collector shows of the queue, and of each of its lanes: gauges with their values.
_QUEUE_GAUGES: dict[str, tuple[str, Callable[[Hub], float]]] = {
    "redis_up": ("1 while Redis answers this API", lambda hub: hub.reachable),
    "shards_down": (
        "Shards of the queue whose Redis does not answer this API",
        lambda hub: hub.shards_up.count(False),
    ),
    "redis_skipped_commands": (
        "Commands of its append-only file or its master that Redis has refused",
        lambda hub: hub.redis_watch.skipped,
    ),
    "redis_memory_bytes": ("Memory that the queue's Redis uses", lambda hub: hub.snapshot.memory.used),
    "redis_memory_limit_bytes": (
        "maxmemory of the queue's Redis, or half of its machine's memory if not set",
        lambda hub: hub.snapshot.memory.limit,
    ),
    "queue_solo_entries": ("Entries recovered from dead workers, waiting", lambda hub: hub.snapshot.solo),
    "in_flight_entries": ("Entries leased by workers", lambda hub: hub.snapshot.in_flight),
    "workers": ("Live workers", lambda hub: hub.snapshot.workers),
    "workers_rate_tokens": ("Tokens per second of all workers together", lambda hub: hub.snapshot.rate),
}
_LANE_GAUGES: dict[str, tuple[str, Callable[[LaneDepth], float]]] = {
    "entries": ("Entries waiting", lambda lane: lane.entries),
    "cost_tokens": ("Estimated cost of the entries waiting", lambda lane: lane.cost),
    "oldest_seconds": ("Age of the oldest entry waiting", lambda lane: lane.oldest_ms / 1000),
}


def queue_state(hub: Hub) -> Iterator[Metric]:
    """The state of the queue at the last sweep. It is the same in all API processes, so it is not summed."""
    snapshot = hub.snapshot
    model = snapshot.model
    facts: dict[str, str] = {}
    if model is not None:
        facts = {"engine": model.engine, "precision": model.precision}
        facts |= {"model": model.name, "revision": model.revision[:12]}
    yield build(facts, "Version of this API, and the model that workers publish")
    for name, (text, value) in _QUEUE_GAUGES.items():
        yield GaugeMetricFamily(f"millrace_{name}", text, float(value(hub)))
    for name, (text, depth) in _LANE_GAUGES.items():
        gauge = GaugeMetricFamily(f"millrace_queue_{name}", text, labels=["lane"])
        yield labelled(gauge, {"interactive": depth(snapshot.interactive), "bulk": depth(snapshot.bulk)})
