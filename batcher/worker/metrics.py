"""The metrics of a worker: declared here, and updated only through these methods.

docs/metrics.md explains the purpose of each metric and who reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from batcher.core.commands import Command
from batcher.core.metrics import Scraped, build, duration_bounds, labelled, redis_state
from batcher.messages import Lane
from batcher.worker.batching import Reason
from batcher.worker.drift import DriftWatch, Tally
from batcher.worker.stats import BatchReport
from model_store import ModelInfo

if TYPE_CHECKING:
    from batcher.worker.loop import Worker

SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKEN_BOUNDS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)


class WorkerMetrics:
    """The counters of one worker process. /metrics exposes `registry`."""

    def __init__(self, info: ModelInfo, watch: DriftWatch) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the lines, and never read
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        bounds = duration_bounds()
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        batches = counter("millrace_batches", "Forward passes", ["reason"])
        tokens = counter("millrace_tokens", "Tokens computed", ["kind"])
        text = "From enqueue to the start of the batch"
        waits = histogram("millrace_queue_wait_seconds", text, ["lane"], buckets=bounds)
        text = "Round trips of queue scripts; complete may carry the next claim"
        trips = histogram("millrace_redis_round_trip_seconds", text, ["script"], buckets=bounds)
        self._batches = {reason: batches.labels(reason) for reason in get_args(Reason)}
        self._text_tokens, self._padding_tokens = tokens.labels("text"), tokens.labels("padding")
        self._waits = {lane: waits.labels(lane) for lane in get_args(Lane)}
        self._trips = {
            script: trips.labels(script)
            for script in ("claim", "complete", "beat", "end_wait", "release", "retire", "answer")
        }
        self._size = histogram("millrace_batch_entries", "Entries of a batch", buckets=SIZE_BOUNDS)
        text = "Tokens of a batch, including padding"
        self._computed = histogram("millrace_batch_tokens", text, buckets=TOKEN_BOUNDS)
        text = "Tokenising the texts of a batch"
        self._tokenize = histogram("millrace_tokenize_seconds", text, buckets=bounds)
        self._model = histogram("millrace_model_seconds", "A forward pass", buckets=bounds)
        self._failed = counter("millrace_failed_entries", "Texts the model raised on")
        self._retried = counter("millrace_retried_entries", "Entries run again after a worker was lost")
        self._renewals = counter("millrace_lease_renewals", "Leases extended by heartbeats")
        registry.register(Scraped(partial(model_state, info, watch)))
        self._watch = watch

    def attach(self, worker: Worker) -> None:
        """Adds the worker's own state, read at each scrape."""
        self.registry.register(Scraped(partial(worker_state, worker)))

    def observe(self, report: BatchReport) -> None:
        """Counts one batch, and adds its texts to the window that is watched for drift."""
        self._batches[report.reason].inc()
        self._size.observe(report.size)
        self._computed.observe(report.computed_tokens)
        self._text_tokens.inc(report.tokens)
        if report.computed_tokens > report.tokens:
            self._padding_tokens.inc(report.computed_tokens - report.tokens)
        self._tokenize.observe(report.tokenize_s)
        self._model.observe(report.model_s)
        if report.failures:
            self._failed.inc(report.failures)
        if retried := sum(entry.attempts > 1 for entry in report.entries):
            self._retried.inc(retried)
        for entry, wait_s in zip(report.entries, report.queue_s, strict=True):
            self._waits[entry.lane].observe(wait_s)
        self._watch.add(report.scored)

    def round_trip(self, commands: Sequence[Command[Any]], seconds: float, answers: Sequence[Any]) -> None:
        """Counts a successful round trip under the name of its first script."""
        script = commands[0].script
        self._trips[script].observe(seconds)
        if script == "beat":
            self._renewals.inc(max(answers[0].extended, 0))


def worker_state(worker: Worker) -> Iterator[Metric]:
    """The state of a worker, read at each scrape."""
    here = worker.exchange.here
    shards = worker.exchange.parts.values()
    ready = float(worker.state in ("idle", "busy"))
    yield GaugeMetricFamily("millrace_worker_ready", "1 while it accepts work", ready)
    text = "Estimated tokens per second while it computes"
    yield GaugeMetricFamily("millrace_worker_rate_tokens", text, worker.stats.rate)
    yield GaugeMetricFamily("millrace_worker_budget_tokens", "Tokens of a batch", float(worker.budget()))
    text = "Entries past their budget, dropped at a claim"
    yield CounterMetricFamily("millrace_expired_entries", text, sum(shard.expired for shard in shards))
    text = "Ids claimed that were answered, cancelled or foreign"
    yield CounterMetricFamily("millrace_skipped_entries", text, sum(shard.skipped for shard in shards))
    yield from redis_state(here.outage.over, sum(shard.outage.count for shard in shards))


def model_state(info: ModelInfo, watch: DriftWatch) -> Iterator[Metric]:
    """The model of a worker and the distribution of its texts and predictions."""
    revision = info.revision[:12]
    names = {"model": info.name, "revision": revision, "engine": info.engine, "precision": info.precision}
    yield build(names)
    text = "1 if the requested setting failed its proof and another one is used"
    fallback = GaugeMetricFamily("millrace_engine_fallback", text, labels=[*names, "arithmetic"])
    fallback.add_metric([*names.values(), info.arithmetic], float(bool(info.fallback_reason)))
    yield fallback
    text = "Texts by label of highest score"
    labels = CounterMetricFamily("millrace_labels", text, labels=["revision", "label"])
    yield labelled(labels, dict(zip(info.labels, watch.labels, strict=True)), revision)
    yield _tally("millrace_confidence", "Highest score of a text", revision, watch.tallies["confidence"])
    yield _tally("millrace_entropy", "Entropy of the scores, 0 to 1", revision, watch.tallies["entropy"])
    yield _tally("millrace_text_tokens", "Tokens of a text", revision, watch.tallies["tokens"])
    for name, text, value in (
        ("millrace_truncated_texts", "Texts cut at the model's token limit", watch.truncated),
        ("millrace_unknown_pieces", "Pieces that the tokenizer does not know", watch.unknown_pieces),
    ):
        yield labelled(CounterMetricFamily(name, text, labels=["revision"]), {revision: value})
    yield from _drift(revision, watch)


def _drift(revision: str, watch: DriftWatch) -> Iterator[Metric]:
    reference, (texts, indices) = watch.reference, watch.window()
    seen = GaugeMetricFamily("millrace_drift_window_texts", "Texts compared", labels=["revision"])
    text = "Population stability index against the reference; above 0.2: drift"
    psi = GaugeMetricFamily("millrace_drift_psi", text, labels=["revision", "feature", "reference"])
    if reference is not None:
        seen.add_metric([revision], texts)
        origin = "shipped" if reference.shipped else "own"
        for feature, index in indices.items():
            psi.add_metric([revision, feature, origin], index)
    yield seen
    yield psi


def _tally(name: str, text: str, revision: str, tally: Tally) -> Metric:
    buckets, total = [], 0
    for bound, count in zip([*map(str, tally.bounds), "+Inf"], tally.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    metric = HistogramMetricFamily(name, text, labels=["revision"])
    metric.add_metric([revision], buckets, tally.total)
    return metric
