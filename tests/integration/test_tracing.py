"""One trace from the request through the queue into its batch, seen by an exporter in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.types import Message, Receive, Scope, Send

from api.asgi.tracing import Traced
from api.main import create_app
from api.settings import ApiSettings
from batcher import tracing
from batcher.jobs.store import JobStore
from batcher.settings import WorkerSettings
from batcher.worker.building import LoadedModel, build_worker
from batcher.worker.cache_writer import connect_writer
from batcher.worker.loop import Worker
from batcher.worker.observability import Observability
from model_store.stub import StubClassifier
from tests.servers import RedisServer, as_user
from tests.service import wait_until

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CAME = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{'b' * 32}-00f067aa0ba902b7-00"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)
    provider.shutdown()


@pytest.fixture
def worker(redis_server: RedisServer) -> Iterator[Worker]:
    """A worker on a thread, slow enough for requests to share a batch."""
    settings = WorkerSettings(redis_url=as_user(redis_server.url, "worker"))  # type: ignore[arg-type]
    classifier = StubClassifier(batch_ms=250)
    instruments = Observability(classifier, settings)
    cache = connect_writer(settings)
    model = LoadedModel("", build_worker(settings, instruments, cache), instruments, cache)
    thread = threading.Thread(target=model.worker.run)
    thread.start()
    yield model.worker
    model.worker.stop()
    thread.join(10)
    model.close()


Asking = Callable[[httpx.AsyncClient], Awaitable[None]]


async def ask(redis: RedisServer, asking: Asking, *, ready: bool = True) -> None:
    """Runs requests against an API on this Redis, traced if tracing is on, once it is ready."""
    app = create_app(ApiSettings(redis_url=as_user(redis.url, "api")))  # type: ignore[arg-type]
    provider = tracing.provider()
    traced = app if provider is None else Traced(app, provider)
    transport = httpx.ASGITransport(traced)  # type: ignore[arg-type]
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20) as client,
    ):
        for _ in range(200 if ready else 0):
            if (await client.get("/readyz")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        await asking(client)


async def reported(spans: InMemorySpanExporter, name: str, count: int) -> None:
    """Waits for spans of the worker, which reports a batch after its answers."""
    await asyncio.to_thread(
        wait_until, lambda: [span.name for span in spans.get_finished_spans()].count(name) == count, name
    )


async def predict(client: httpx.AsyncClient, *texts: str, trace: str = "") -> None:
    headers = {"traceparent": trace} if trace else {}
    answer = await client.post("/predict", json={"text": texts}, headers=headers)
    assert answer.status_code == 200, answer.text


def of_trace(spans: InMemorySpanExporter, trace_id: int) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans() if span.context.trace_id == trace_id}


async def test_one_trace_leads_from_the_request_into_its_batch_and_out(
    redis_server: RedisServer, spans: InMemorySpanExporter, worker: Worker
) -> None:
    await ask(redis_server, lambda client: predict(client, "a text", "another", trace=CAME))
    await reported(spans, "complete", 1)
    found = of_trace(spans, int(TRACE_ID, 16))
    assert set(found) == {"POST /predict", "queue wait", "batch", "complete"}
    request, wait, batch, complete = (
        found[name] for name in ("POST /predict", "queue wait", "batch", "complete")
    )
    assert request.parent is not None
    assert request.parent.span_id == 0x00F067AA0BA902B7
    assert wait.parent is not None
    assert batch.parent is not None
    assert {wait.parent.span_id, batch.parent.span_id} == {request.context.span_id}
    assert complete.parent is not None
    assert complete.parent.span_id == batch.context.span_id
    assert request.kind is SpanKind.SERVER
    assert request.attributes is not None
    assert request.attributes["millrace.cache"] == "MISS"
    assert request.attributes["http.response.status_code"] == 200
    assert batch.attributes is not None
    assert (batch.attributes["millrace.size"], batch.attributes["millrace.texts"]) == (2, 2)
    times = [moment for span in (wait, batch) for moment in (span.start_time, span.end_time)]
    assert times == sorted(times, key=lambda moment: moment or 0)
    assert not any("a text" in span.to_json() for span in found.values())


async def test_requests_that_share_a_batch_are_linked(
    redis_server: RedisServer, spans: InMemorySpanExporter, worker: Worker
) -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(predict(client, "this one keeps the worker busy"))
        await asyncio.to_thread(wait_until, lambda: worker.state == "busy", "the first pass")
        await asyncio.gather(*(predict(client, f"text {number}") for number in range(3)))
        await first

    await ask(redis_server, asking)
    await reported(spans, "batch", 4)
    batches = [span for span in spans.get_finished_spans() if span.name == "batch"]
    shared = [span for span in batches if span.attributes and span.attributes["millrace.size"] == 3]
    assert len(shared) == 3
    traces = {span.context.trace_id for span in shared}
    assert len(traces) == 3
    for span in shared:
        assert {link.context.trace_id for link in span.links} == traces - {span.context.trace_id}


async def test_a_hit_has_no_queue_and_a_caller_who_does_not_sample_is_obeyed(
    redis_server: RedisServer, spans: InMemorySpanExporter, worker: Worker
) -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        await predict(client, "known", trace=UNSAMPLED)
        assert spans.get_finished_spans() == ()
        await predict(client, "known", trace=CAME)

    await ask(redis_server, asking)
    assert set(of_trace(spans, int(TRACE_ID, 16))) == {"POST /predict"}
    assert len(spans.get_finished_spans()) == 1


async def test_probes_are_not_traced(
    redis_server: RedisServer, spans: InMemorySpanExporter, worker: Worker
) -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        await client.get("/health")
        await client.get("/jobs")
        await client.get("/nowhere")

    await ask(redis_server, asking)
    assert sorted(span.name for span in spans.get_finished_spans()) == ["GET", "GET /jobs"]


async def test_a_job_goes_on_in_the_trace_that_handed_it_in(
    redis_server: RedisServer, spans: InMemorySpanExporter
) -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        answer = await client.post("/jobs", json={"text": ["a"]}, headers={"traceparent": CAME})
        assert answer.status_code == 202
        with redis_server.client() as redis:
            trace = JobStore(redis, "default", 60).start(answer.json()["id"]).trace
        with tracing.job_span("the job", trace):
            assert tracing.current().startswith(f"00-{TRACE_ID}-")

    await ask(redis_server, asking, ready=False)
    found = of_trace(spans, int(TRACE_ID, 16))
    assert set(found) == {"POST /jobs", "job"}
    parent = found["job"].parent
    assert parent is not None
    assert parent.span_id == found["POST /jobs"].context.span_id


async def test_an_application_gets_all_other_headers_and_one_parent(spans: InMemorySpanExporter) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    provider = tracing.provider()
    assert provider is not None
    headers = [(b"x-api-key", b"one"), (b"traceparent", CAME.encode())]
    traced: Any = Traced(app, provider)
    await traced({"type": "http", "path": "/predict", "method": "POST", "headers": headers}, None, None)
    kept, (name, parent) = seen
    assert (kept, name) == (headers[0], b"traceparent")
    assert parent.startswith(f"00-{TRACE_ID}-".encode())
    assert parent != CAME.encode()


@pytest.mark.parametrize(("status", "described"), [(200, "UNSET"), (429, "UNSET"), (503, "ERROR")])
async def test_only_what_the_service_fails_at_is_an_error(
    spans: InMemorySpanExporter, status: int, described: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message: Message) -> None:
        """The answer reaches no client."""

    provider = tracing.provider()
    assert provider is not None
    traced: Any = Traced(app, provider)
    await traced({"type": "http", "path": "/predict", "method": "POST", "headers": []}, None, send)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code.name == described


async def test_off_means_that_what_came_is_handed_on_and_nothing_is_made(
    redis_server: RedisServer, worker: Worker
) -> None:
    seen: list[str] = []
    worker.follow_up.observe = lambda report: seen.extend(entry.trace for entry in report.entries)
    await ask(redis_server, lambda client: predict(client, "a text", trace=CAME))
    await asyncio.to_thread(wait_until, lambda: seen == [CAME], "the report of the batch")
    assert tracing.current() == ""
    with tracing.job_span("j", CAME):
        assert tracing.current() == ""


@pytest.mark.parametrize("modules", ["batcher.__main__, batcher.jobs.main", "api.server.run, api.main"])
def test_every_process_starts_without_the_packages_of_the_extra(modules: str) -> None:
    away = "{'opentelemetry.sdk': None, 'opentelemetry.exporter': None}"
    code = f"import sys; sys.modules |= {away}; import {modules}"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(tracing.TracingUnavailable, match=r"pip install 'millrace-server\[otel\]'"):
        tracing.check()


def test_setup_exports_what_is_made_under_the_name_of_the_process() -> None:
    provider = tracing.setup("worker")
    try:
        assert provider.resource.attributes["service.name"] == "millrace-worker"
        assert Observability(StubClassifier(), WorkerSettings()).traces is not None
    finally:
        tracing.use(None)
        provider.shutdown()
