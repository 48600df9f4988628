"""The metrics of the jobs worker. docs/metrics.md explains the purpose of each and who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.core.metrics import Scraped, build, labelled, redis_state
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore


def jobs_registry(store: JobStore, outage: Outage) -> CollectorRegistry:
    """The registry of the jobs worker: totals of the service, which are read from Redis at each scrape."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Scraped(partial(jobs_state, store, outage)))
    return registry


def jobs_state(store: JobStore, outage: Outage) -> Iterator[Metric]:
    """Jobs by state, ended jobs and finished texts. All `millrace jobs` processes report the same values.

    While Redis does not answer, reports only that.
    """
    yield build({})
    yield from redis_state(outage.over, outage.count)
    try:
        totals = store.totals()
        skipped = store.skipped_commands()
    except REDIS_ERRORS:
        return
    text = "Commands of its file or master that Redis has refused"
    yield GaugeMetricFamily("millrace_redis_skipped_commands", text, skipped)
    jobs = GaugeMetricFamily("millrace_jobs", "Jobs that have not ended", labels=["state"])
    yield labelled(jobs, {"queued": totals.queued, "running": totals.running})
    text = "Age of the job that runs next"
    yield GaugeMetricFamily("millrace_jobs_oldest_queued_seconds", text, totals.oldest_ms / 1000)
    ended = CounterMetricFamily("millrace_jobs_ended", "Jobs that ended", labels=["status"])
    yield labelled(ended, totals.ended)
    held = "Texts and results of jobs in Redis"
    yield GaugeMetricFamily("millrace_jobs_held_bytes", held, totals.held_bytes)
    refused = "Items in RQ's queue that this process refused to run"
    yield CounterMetricFamily("millrace_jobs_refused", refused, JobQueue.refused)
    texts = CounterMetricFamily("millrace_job_texts", "Texts of jobs that are done", labels=["result"])
    yield labelled(texts, {"predicted": totals.texts - totals.failed_texts, "failed": totals.failed_texts})
