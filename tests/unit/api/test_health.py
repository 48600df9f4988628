from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from batcher.core.metrics import duration_bounds
from batcher.core.redis_watch import Memory
from batcher.core.snapshot import NO_SNAPSHOT, Fallback, LaneDepth
from batcher.errors import EntryFailed, QueueFull
from batcher.hub.pending import HubCounts
from tests.unit.api.service import Service, Start, assert_problem
from tests.unit.fakes import RUNNING, FakeHub, prediction


async def metrics(service: Service) -> dict[tuple[str, str], float]:
    """The samples of /metrics: (name, joined label values) -> value."""
    text = (await service.client.get("/metrics")).text
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_healthy_whatever_happens_unless_clients_take_it_for_readiness(start: Start) -> None:
    hub = FakeHub(snapshot=NO_SNAPSHOT, alive=False, reachable=False)
    service = await start(hub, compat="oip,kserve,openai,fms")
    service.lifecycle.draining = True
    response = await service.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "healthy"})
    assert response.headers["content-type"] == "application/json"
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics"])
async def test_probes_answer_head_as_they_answer_get(service: Service, path: str) -> None:
    asked, headed = await service.client.get(path), await service.client.head(path)
    assert headed.status_code == asked.status_code == 200
    assert headed.headers["content-type"] == asked.headers["content-type"]
    assert_problem(await service.client.put(path), 405, "method_not_allowed")
    service.hub.alive = False
    assert (await service.client.head("/livez")).status_code == 503


async def test_readiness_warns_of_a_worker_with_a_fallback(service: Service) -> None:
    assert "warning" not in (await service.client.get("/readyz")).json()
    fallback = Fallback(1, "w1", "stub", "f32", "f32", "float weights in bf16, packed: it has another label")
    service.hub.snapshot = replace(RUNNING, workers=2, fallback=fallback)
    answer = (await service.client.get("/readyz")).json()
    assert answer["status"] == "ready"
    assert answer["warning"] == (
        "1 of 2 workers use a fallback engine or precision: w1 runs stub f32 in f32 because "
        "float weights in bf16, packed: it has another label"
    )


@pytest.mark.parametrize(("used", "warns"), [(90, False), (91, True), (101, True)])
async def test_a_full_redis_is_a_warning_and_no_reason_to_send_requests_elsewhere(
    service: Service, used: int, warns: bool
) -> None:
    """It is full for all processes alike, and each of them still answers the texts in a cache."""
    service.hub.snapshot = replace(RUNNING, memory=Memory(used, 100))
    answer = await service.client.get("/readyz")
    assert answer.status_code == 200
    wanted = f"Redis uses {used}% of its memory: once it is full, texts that are not cached get 503"
    assert answer.json().get("warning") == (wanted if warns else None)


async def test_live_until_a_loop_has_ended(service: Service) -> None:
    assert (await service.client.get("/livez")).json() == {"status": "live"}
    service.hub.alive = False
    assert_problem(await service.client.get("/livez"), 503, "loop_ended")


async def test_livez_sees_the_loops_of_the_edge_itself(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """If the task that publishes counters ended unnoticed, other processes would report old values."""

    async def broken() -> None:
        raise RuntimeError("broken")

    async with service.lifecycle.running(broken(), "metrics"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert_problem(await service.client.get("/livez"), 503, "loop_ended")
    assert [record.__dict__["loop"] for record in caplog.records if "loop" in record.__dict__] == ["metrics"]


async def test_every_loop_of_the_edge_is_watched(service: Service) -> None:
    assert {task.get_name() for task in service.lifecycle._tasks} == {"metrics", "stats", "traffic"}


async def test_ready_says_what_would_answer(service: Service) -> None:
    response = await service.client.get("/readyz")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ready", "model": "stub@a1b2c3d4e5f6", "workers": 1},
    )


@pytest.mark.parametrize(
    ("hub", "code"),
    [
        (FakeHub(reachable=False), "redis_unavailable"),
        (FakeHub(snapshot=NO_SNAPSHOT), "no_worker"),
        (FakeHub(snapshot=replace(RUNNING, workers=0)), "no_worker"),
        (FakeHub(snapshot=replace(RUNNING, model=None)), "no_worker"),
    ],
)
async def test_not_ready_says_why(start: Start, hub: FakeHub, code: str) -> None:
    response = await (await start(hub)).client.get("/readyz")
    assert_problem(response, 503, code)
    assert int(response.headers["retry-after"]) > 0


async def test_not_ready_while_draining_but_still_answering(service: Service) -> None:
    service.lifecycle.draining = True
    assert_problem(await service.client.get("/readyz"), 503, "draining")
    assert (await service.client.get("/livez")).status_code == 200
    assert (await service.predict("a")).status_code == 200


async def test_requests_and_entries_are_counted_by_what_became_of_them(start: Start) -> None:
    bad = EntryFailed("x")
    service = await start(FakeHub(answer=lambda text: bad if text == "bad" else prediction(text)))
    service.cache.keep("shared")
    await service.predict("a", "b", "shared")
    await service.predict("a", "b")
    await service.predict("a", "c", "bad")
    service.hub.refusal = QueueFull("full")
    await service.predict("d", "e")
    await service.post(b"")
    seen = await metrics(service)
    requests = {
        status: seen["millrace_requests_total", f"/predict,{status}"] for status in (200, 422, 429, 500)
    }
    assert requests == {200: 2, 422: 1, 429: 1, 500: 1}
    entries = {
        outcome: value
        for (name, outcome), value in seen.items()
        if name == "millrace_entries_total" and value
    }
    assert entries == {"hit_local": 3, "hit_shared": 1, "computed": 3, "failed": 1, "shed": 2}
    assert seen["millrace_request_duration_seconds_count", "/predict"] == 5
    assert seen["millrace_request_duration_seconds_bucket", "+Inf,/predict"] == 5
    assert 0 < seen["millrace_request_duration_seconds_sum", "/predict"] < 5
    assert seen["millrace_local_cache_entries", ""] == 4
    assert seen["millrace_local_cache_bytes", ""] > 4 * 350


async def test_a_shard_that_is_down_is_counted_and_named(start: Start) -> None:
    service = await start(FakeHub(snapshot=RUNNING, shards_up=(True, False, True)))
    ready = (await service.client.get("/readyz")).json()
    assert (ready["shards"], ready["shards_up"]) == (3, 2)
    assert "shard 1 of 3 does not answer" in ready["warning"]
    assert (await metrics(service))["millrace_shards_down", ""] == 1
    assert (await service.client.get("/stats")).json()["shards"] == {"count": 3, "up": 2, "down": [1]}


async def test_one_shard_is_not_spoken_of(start: Start) -> None:
    service = await start(FakeHub(snapshot=RUNNING))
    assert not {"shards", "shards_up", "warning"} & (await service.client.get("/readyz")).json().keys()


async def test_the_mill_is_shown_as_the_hub_sees_it(start: Start) -> None:
    hub = FakeHub(snapshot=replace(RUNNING, interactive=LaneDepth(7, 90, 1500), solo=1, in_flight=4))
    hub.counts, hub.outages, hub.waiting = HubCounts(joined=3, polled=1), 2, 5
    seen = await metrics(await start(hub))
    assert seen["millrace_queue_entries", "interactive"] == 7
    assert seen["millrace_queue_entries", "bulk"] == 0
    assert seen["millrace_queue_cost_tokens", "interactive"] == 90
    assert seen["millrace_queue_oldest_seconds", "interactive"] == 1.5
    assert seen["millrace_queue_solo_entries", ""] == 1
    assert seen["millrace_in_flight_entries", ""] == 4
    assert seen["millrace_workers", ""] == 1
    assert seen["millrace_workers_rate_tokens", ""] == 1000
    assert seen["millrace_redis_up", ""] == 1
    assert seen["millrace_redis_skipped_commands", ""] == 0
    assert seen["millrace_hub_joined_total", ""] == 3
    assert seen["millrace_hub_polled_total", ""] == 1
    assert seen["millrace_redis_outages_total", ""] == 2
    assert seen["millrace_waiting_entries", ""] == 5
    assert any(name == "millrace_build_info" for name, _ in seen)
    assert seen["process_resident_memory_bytes", ""] > 1e6


async def test_every_route_is_counted_by_its_own_name(service: Service) -> None:
    routes = [route for route in service.app.app.routes if isinstance(route, APIRoute)]
    declared = {route.path for route in routes if not route.path.startswith("/admin")}  # refused before
    for path in declared:
        await service.client.request("TRACE", re.sub(r"\{[^}]*\}", "0" * 32, path))
    await service.client.get("/wp-admin/setup.php")
    counted = {
        labels.rpartition(",")[0]
        for name, labels in await metrics(service)
        if name == "millrace_requests_total"
    }
    assert declared - {"/predict", "/health"} <= counted
    assert not any("wp-admin" in route for route in counted)
    assert "other" in counted


async def test_texts_and_ids_are_no_labels(service: Service) -> None:
    await service.predict("a very private text", x_request_id="my-id")
    text = (await service.client.get("/metrics")).text
    assert "private" not in text
    assert "my-id" not in text


@pytest.mark.parametrize("budget_s", [0.5, 10.0, 60.0])
def test_buckets_end_at_the_budget(budget_s: float) -> None:
    bounds = duration_bounds(budget_s)
    assert bounds[0] == 0.0001
    assert bounds[-1] == budget_s
    assert list(bounds) == sorted(set(bounds))


async def test_openapi_describes_everything(start: Start) -> None:
    service = await start(compat="")
    document = (await service.client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/predict", "/health", "/livez", "/readyz", "/metrics"}
    predict = document["paths"]["/predict"]["post"]
    assert set(predict["responses"]) == {
        "200",
        "202",
        "401",
        "403",
        "408",
        "409",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "504",
        "507",
    }
    reference = predict["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    body = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert body["properties"]["text"] == {
        "description": "Texts to classify",
        "items": {"type": "string"},
        "maxItems": 1024,
        "minItems": 1,
        "title": "Text",
        "type": "array",
    }
    assert body["additionalProperties"] is False
    assert {parameter["name"] for parameter in predict["parameters"]} == {
        "Prefer",
        "X-Request-ID",
        "Idempotency-Key",
        "order",
    }
    assert "X-Cache" in predict["responses"]["200"]["headers"]
    example = (await service.client.post("/predict", json=body["example"])).json()
    assert example.keys() == {"predictions"}


async def test_the_lifespan_starts_and_stops_what_is_behind(start: Start) -> None:
    hub = FakeHub()
    service = await start(hub)
    assert hub.running
    assert not service.cache.closed
