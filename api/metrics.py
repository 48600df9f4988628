"""What an API process counts: declared here, recorded through these methods alone.

docs/metrics.md says what each is for and who reads it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from api.board import Board, Cell, Timer
from api.cache import LocalCache
from api.mill import Hub
from batcher.buckets import duration_bounds
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)

ROUTES = (
    "/predict",
    "/jobs",
    "/jobs/{job_id}",
    "/jobs/{job_id}/events",
    "/jobs/{job_id}/predictions",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/stats",
    "/static/{name}",
    "/docs",
    "/openapi.json",
    "/",
    "other",
)
_STATUSES = (
    200,
    202,
    204,
    206,
    303,
    304,
    307,
    400,
    401,
    403,
    404,
    405,
    408,
    409,
    413,
    415,
    422,
    429,
    499,
    500,
)
STATUSES = (*map(str, _STATUSES), "501", "503", "504", "other")
# Of what clients with a name of their own were answered. More names than this are counted as one, "other".
CLASSES = ("2xx", "3xx", "4xx", "5xx")
MOST_CLIENTS = 1000
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
# Of `batcher.asks.HubCounts`: field -> what it counts.
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
    """The counters of one process. `registry` is what /metrics shows; others may register there too."""

    def __init__(
        self, board: Board, budget_s: float, *, several: bool = False, clients: Sequence[str] = ()
    ) -> None:
        self.version = _version()
        self.registry = CollectorRegistry()
        self.registry.register(board)
        if not several:  # of several processes, each scrape would show another one
            ProcessCollector(registry=self.registry)
        self._board = board
        self._requests = board.declare(
            "counter",
            "millrace_requests",
            "HTTP requests by route and status",
            {"route": ROUTES, "status": STATUSES},
        )
        self.bounds = duration_bounds(budget_s)
        self._durations = board.declare(
            "histogram",
            "millrace_request_duration_seconds",
            "From the first byte of the request to the answer",
            {"route": ROUTES},
            self.bounds,
        )
        entries = self._outcomes = board.declare(
            "counter", "millrace_entries", "Texts by what became of them", {"outcome": OUTCOMES}
        )
        self._entries = {outcome: board.cell(entries, outcome) for outcome in OUTCOMES}
        named = [name for name in clients if name != "other"][:MOST_CLIENTS]
        self._clients = board.declare(
            "counter",
            "millrace_client_requests",
            "Requests that showed an API key, by its name",
            {
                "client": (*named, "other"),
                "status": CLASSES,
            },
        )
        self.gauges = {name: self._lone("gauge", f"millrace_{name}", text) for name, text in _GAUGES.items()}
        self.evictions = self._lone(
            "counter", "millrace_local_cache_evictions", "Entries pushed out of the in-process cache"
        )
        self.outages = self._lone("counter", "millrace_redis_outages", "Times that this API lost Redis")
        self.cache_outages = self._lone(
            "counter", "millrace_cache_outages", "Times that this API lost the Redis of the shared cache"
        )
        self.hub = {
            name: self._lone("counter", f"millrace_hub_{name}", text) for name, text in HUB_COUNTS.items()
        }
        self._known: dict[tuple[str, int], tuple[Cell, Timer]] = {}
        self._of_clients: dict[tuple[str, int], Cell] = {}
        self._hit_local = self._entries["hit_local"]

    def _lone(self, kind: str, name: str, text: str) -> Cell:
        return self._board.cell(self._board.declare(kind, name, text))

    def request(self, route: str, status: int, seconds: float) -> None:
        """One answered request; 499 where the client left."""
        pair = self._known.get((route, status))
        if pair is None:
            pair = (
                self._board.cell(self._requests, route, str(status)),
                self._board.timer(self._durations, route),
            )
            self._known[route, status] = pair
        pair[0].add()
        pair[1].observe(seconds)

    def client(self, name: str, status: int) -> None:
        """One answered request of the API key of this name."""
        cell = self._of_clients.get((name, status))
        if cell is None:
            cell = self._of_clients[name, status] = self._board.cell(
                self._clients, name, f"{status // 100}xx"
            )
        cell.add()

    def hit_local(self, texts: int) -> None:
        self._hit_local.add(texts)

    def entries(self, outcome: str | MillraceError, texts: int = 1) -> None:
        """`texts` texts that ended like this: a name of OUTCOMES, or the error that answered them."""
        name = outcome if isinstance(outcome, str) else OUTCOME_OF.get(type(outcome), "failed")
        self._entries[name].add(texts)

    def outcomes(self) -> dict[str, float]:
        """Texts by outcome since the start, of all processes."""
        return {name: self._board.row(self._outcomes, name)[0] for name in OUTCOMES}

    def predict_durations(self) -> array[float]:
        """Of POST /predict, all processes: a count for each bucket, one for what is beyond, the sum."""
        return self._board.row(self._durations, "/predict")

    def publish(self, local: LocalCache, hub: Hub) -> None:
        """Copies what others count into cells: each second, and before each scrape."""
        self.gauges["local_cache_entries"].set(len(local))
        self.gauges["local_cache_bytes"].set(local.bytes)
        self.gauges["waiting_entries"].set(hub.waiting)
        self.evictions.set(local.evictions)
        self.outages.set(hub.outage.count)
        for name, cell in self.hub.items():
            cell.set(getattr(hub.counts, name))


_GAUGES = {
    "local_cache_entries": "Predictions in the in-process cache",
    "local_cache_bytes": "Their size",
    "waiting_entries": "Texts that requests of this API wait for",
}


class MillCollector(Collector):
    """The mill as the last sweep saw it: the same in every API process, so read, not counted."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        snapshot, model = self._hub.snapshot, self._hub.snapshot.model
        build = {"version": _version(), "python": python_version()}
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


def _version() -> str:
    try:
        return version("millrace")
    except PackageNotFoundError:
        return "unknown"
