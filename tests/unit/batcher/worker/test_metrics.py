"""What one batch leaves in a worker's counters, and the small server that shows them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fakeredis
import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

import batcher.worker
from api.settings import ApiSettings
from batcher.core import commands
from batcher.core.commands import Answer, Claim, Complete, HeartbeatReply, SendHeartbeat
from batcher.core.metrics import BUDGET_S
from batcher.listening import bind
from batcher.messages import Entry
from batcher.probe_server import ProbeServer
from batcher.worker.drift import DriftWatch
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import BatchReport
from model_store.stub import StubClassifier
from tests.fakes import heartbeat_queue

ENTRY = Entry("a" * 64, "some text", "interactive", 5, waited_ms=3, remaining_ms=900, attempts=1)
REPORT = BatchReport(
    number=1, entries=(ENTRY, replace(ENTRY, lane="bulk", attempts=2)), size=2, tokens=10, computed_tokens=16,
    reason="full", queue_s=(0.003, 2.0), tokenize_s=0.0002, model_s=0.012, failures=1,
)  # fmt: skip


@pytest.fixture
def metrics() -> WorkerMetrics:
    info = StubClassifier().info
    return WorkerMetrics(info, DriftWatch(info))


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def test_a_batch_is_counted_once_in_each_of_its_metrics(metrics: WorkerMetrics) -> None:
    metrics.observe(REPORT)
    assert value(metrics, "millrace_batches_total", reason="full") == 1
    assert value(metrics, "millrace_batch_entries_sum") == 2
    assert value(metrics, "millrace_batch_tokens_sum") == 16
    assert value(metrics, "millrace_tokens_total", kind="text") == 10
    assert value(metrics, "millrace_tokens_total", kind="padding") == 6
    assert value(metrics, "millrace_queue_wait_seconds_sum", lane="interactive") == 0.003
    assert value(metrics, "millrace_queue_wait_seconds_sum", lane="bulk") == 2.0
    assert value(metrics, "millrace_model_seconds_sum") == 0.012
    assert value(metrics, "millrace_tokenize_seconds_count") == 1
    assert value(metrics, "millrace_failed_entries_total") == 1
    assert value(metrics, "millrace_retried_entries_total") == 1


def test_what_is_logged_of_a_batch_is_ids_and_durations_never_texts() -> None:
    context = REPORT.log_context()
    assert context["entries"] == [ENTRY.id, ENTRY.id]
    assert context["model_ms"] == 12.0
    assert ENTRY.text not in str(context)


def measured(metrics: WorkerMetrics, client: fakeredis.FakeRedis | None = None) -> HeartbeatQueue:
    return heartbeat_queue(
        client or fakeredis.FakeRedis(),
        "default",
        "w",
        lease_ms=2000,
        max_attempts=3,
        result_ms=1000,
        on_round_trip=metrics.round_trip,
    )


def test_round_trips_are_timed_by_their_first_script(metrics: WorkerMetrics) -> None:
    metrics.round_trip([Complete("w", [], [], 1000), Claim("w", 1, 1, 1, 2000, 3)], 0.1, [1, 2])
    metrics.round_trip([SendHeartbeat("w", 2000, 5000, [], {}, {})], 0.1, [HeartbeatReply(7)])
    assert value(metrics, "millrace_redis_round_trip_seconds_count", script="complete") == 1
    assert value(metrics, "millrace_redis_round_trip_seconds_count", script="claim") == 0
    assert value(metrics, "millrace_lease_renewals_total") == 7


def test_a_heartbeat_after_redis_has_lost_everything_is_counted_too(metrics: WorkerMetrics) -> None:
    """Its reply of -1 ended the worker: a counter cannot fall."""
    client = fakeredis.FakeRedis()
    queue = measured(metrics, client)
    for _ in range(2):
        assert queue.heartbeat([], {"revision": "r"}, {"revision": "r"}, 60_000) == 0
        client.flushall()
    assert value(metrics, "millrace_redis_round_trip_seconds_count", script="beat") == 3
    assert value(metrics, "millrace_lease_renewals_total") == 0


def test_an_answer_to_the_console_is_timed(metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=iter([3.0, 3.25]).__next__)
    monkeypatch.setattr("batcher.worker.queue.time", clock)
    measured(metrics).run([Answer("1", "{}")])
    assert value(metrics, "millrace_redis_round_trip_seconds_count", script="answer") == 1
    assert value(metrics, "millrace_redis_round_trip_seconds_sum", script="answer") == 0.25


def test_duration_buckets_end_at_the_default_budget() -> None:
    assert ApiSettings.model_fields["default_budget_s"].default == BUDGET_S


def test_the_heartbeat_of_a_worker_with_metrics_ended_when_it_was_stopped(metrics: WorkerMetrics) -> None:
    """A script without a histogram was a KeyError, so leases were not renewed while the last batch ran."""
    folder = Path(batcher.worker.__file__).parent
    code = "\n".join(path.read_text() for path in folder.glob("*.py"))
    run = {
        name
        for call in re.findall(r"\.run\(\[(.*)\]\)", code)
        for name in re.findall(r"\b[A-Z]\w+(?=\()", call)
    }
    assert {"EndWait", "Retire", "SendHeartbeat"} <= run
    for name in run:
        script = getattr(commands, name).script
        assert value(metrics, "millrace_redis_round_trip_seconds_count", script=script) == 0, script


@pytest.fixture
def probes() -> Iterator[ProbeServer]:
    registry = CollectorRegistry()
    Counter("turns", "Turns of the wheel", registry=registry).inc(3)
    reasons: list[str | None] = [None, "Redis does not answer"]
    served = ProbeServer("127.0.0.1", 0, registry, live=lambda: reasons[0], ready=lambda: reasons[1])
    yield served
    served.close()


def test_probes_answer_on_a_thread_of_their_own(probes: ProbeServer) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{probes.server_port}", trust_env=False) as client:
        assert client.get("/livez").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"detail": "Redis does not answer"})
        assert "turns_total 3.0" in client.get("/metrics").text
        assert client.get("/secrets").status_code == 404
        assert "Python" not in ready.headers["server"]
        for path in ("/livez", "/readyz", "/metrics", "/secrets"):
            asked, headed = client.get(path), client.head(path)
            assert (headed.status_code, headed.content) == (asked.status_code, b""), path
            assert headed.headers["content-type"] == asked.headers["content-type"]
    assert "probes" in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("name", ["millrace up", "pods"])
def test_probes_answered_ipv4_only_and_on_every_address(name: str) -> None:
    """Pods of clusters with IPv6 only never became ready, and metrics of `millrace up` were open to all."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    host, reached = {"millrace up": ("127.0.0.1", {"127.0.0.1"}), "pods": ("::", {"127.0.0.1", "::1"})}[name]
    served = ProbeServer(host, 0, CollectorRegistry(), live=lambda: None, ready=lambda: None)
    found = set()
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        url = f"http://{f'[{address}]' if ':' in address else address}:{served.server_port}/livez"
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, trust_env=False, timeout=30)
            found.add(address)
    served.close()
    assert found - {"127.0.0.2"} == reached
    assert ("127.0.0.2" in found) == (name == "pods")


def test_without_ipv6_all_addresses_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind("::", 0) as listener:
        assert (listener.family, listener.getsockname()[0]) == (socket.AF_INET, "0.0.0.0")


def test_a_port_that_is_taken_is_an_error(probes: ProbeServer) -> None:
    with pytest.raises(OSError, match="in use"):
        ProbeServer(
            "127.0.0.1", probes.server_port, CollectorRegistry(), live=lambda: None, ready=lambda: None
        )
