"""Pauses through HTTP, with the real hub over a fake Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batcher.core.snapshot import NO_SNAPSHOT
from batcher.hub.hub import ReplyHub
from batcher.messages import Prediction, fragment
from tests.conftest import FakeRedis
from tests.fakes import shard_hub
from tests.unit.api.admin.conftest import ADMIN, AdminApi, P, Start
from tests.unit.api.service import assert_problem
from tests.unit.fakes import RUNNING, FakeHub


async def until(true: Callable[[], object]) -> None:
    """Waits for what the hub does meanwhile."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.005)


@pytest.fixture
async def api(start: Start, fake_redis: FakeRedis) -> AdminApi:
    hub: Any = ReplyHub([shard_hub(fake_redis.aio, fake_redis.aio, name="default", cost=1000)])
    api = await start(hub, default_budget_s=2.0)
    record = {"revision": "rev-2026", "engine": "stub", "precision": "f32", "state": "idle", "rate": 1000}
    record |= {"batches": 0, "texts": 0, "last_batch": 0, "started_ms": 1}
    model = {"name": "m", "revision": "rev-2026", "labels": "N\nP", "max_tokens": 9}
    api.worker().heartbeat([], record, model | {"engine": "stub", "precision": "f32"}, 60_000, takeover=True)
    await hub.parts[0].sweep()
    assert hub.snapshot.workers == RUNNING.workers
    return api


async def put(api: AdminApi, lane: str, **body: Any) -> dict[str, Any]:
    answer = await api.client.put(f"/admin/pauses/{lane}", json=body, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    await api.hub.parts[0].sweep()  # type: ignore[attr-defined]
    found: dict[str, Any] = answer.json()["pauses"]
    return found


async def test_a_paused_service_says_until_when(api: AdminApi) -> None:
    pauses = await put(api, "all", waiting="finish", for_s=90)
    assert {lane: pause["waiting"] for lane, pause in pauses.items()} == {
        "interactive": "finish",
        "bulk": "finish",
    }
    answer = await api.client.post("/predict", json={"text": ["new"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "paused")
    assert 85 <= int(answer.headers["retry-after"]) <= 90
    assert (await api.get("/pauses")).json()["pauses"].keys() == {"interactive", "bulk"}
    assert not api.redis.exists(f"{P}:q")

    answer = await api.client.delete("/admin/pauses/all", headers=ADMIN)
    assert answer.json() == {"pauses": {}}
    ended, begun = (await api.get("/audit")).json()["audit"]
    assert (ended["action"], ended["lane"]) == ("resume", "all")
    assert [begun[name] for name in ("action", "lane", "waiting", "for_s")] == ["pause", "all", "finish", 90]
    assert begun["decision"] < ended["decision"] < 2**53


async def test_what_waits_is_refused_and_leaves_the_queue(api: AdminApi) -> None:
    asking = asyncio.create_task(api.client.post("/predict", json={"text": ["waits"]}))
    await until(lambda: api.redis.exists(f"{P}:q"))
    await put(api, "interactive", waiting="refuse", for_s=60)
    answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (503, "paused")
    await until(lambda: not api.redis.keys(f"{P}:entry:*"))


async def test_what_waits_is_kept_for_its_budget_and_runs_after_the_pause(api: AdminApi) -> None:
    await put(api, "interactive", waiting="keep", for_s=1.5)
    short = await api.client.post("/predict", json={"text": ["no"]}, headers={"prefer": "wait=0.5"})
    assert (short.status_code, short.json()["code"]) == (503, "paused")
    asking = asyncio.create_task(
        api.client.post("/predict", json={"text": ["waits"]}, headers={"prefer": "wait=20"})
    )
    await until(lambda: api.redis.exists(f"{P}:q"))
    assert api.worker().claim(10, 100, 100).entries == []
    await api.client.delete("/admin/pauses/interactive", headers=ADMIN)
    (entry,) = api.worker().claim(10, 100, 100).entries
    result = Prediction(fragment(("N", "P"), (0.25, 0.75)), "rev-2026", 3)
    api.worker().complete([(entry.id, result.encode())])
    assert (await asking).status_code == 200


async def test_a_model_is_paused_by_its_name_or_revision(api: AdminApi) -> None:
    for name in ("m", "rev-2026", "rev-"):
        pauses = await put(api, f"models/{name}", for_s=60)
        assert pauses.keys() == {"interactive", "bulk"}
        assert (await api.get("/pauses")).json()["models"] == ["m"]
        answer = await api.client.delete(f"/admin/pauses/models/{name}", headers=ADMIN)
        assert answer.json() == {"pauses": {}}
    newest = (await api.get("/audit")).json()["audit"][0]
    assert (newest["action"], newest["model"]) == ("resume", "m")


@pytest.mark.parametrize("name", ["other", "rev", "M", "m/", "m%00", "%2e%2e/all", "models/m", "x" * 2000])
async def test_an_unknown_model_is_refused_with_the_list(api: AdminApi, name: str) -> None:
    for method in ("PUT", "DELETE"):
        answer = await api.client.request(
            method,
            f"/admin/pauses/models/{name}",
            json={"for_s": 60} if method == "PUT" else None,
            headers=ADMIN,
        )
        assert_problem(answer, 404, "model_not_found")
        assert answer.json()["models"] == ["m"]
    assert not api.redis.exists(f"{P}:pauses")


async def test_before_the_first_worker_there_is_no_model(start: Start) -> None:
    api = await start(FakeHub(snapshot=NO_SNAPSHOT))
    answer = await api.client.delete("/admin/pauses/models/m", headers=ADMIN)
    assert_problem(answer, 503, "no_worker")


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("all", {}),
    ("all", {"for_s": 0}),
    ("all", {"for_s": 86_401}),
    ("all", {"for_s": "10"}),
    ("all", {"for_s": 10, "waiting": "drop"}),
    ("all", {"for_s": 10, "more": 1}),
    ("q", {"for_s": 10}),
    ("interactive keep 99999999999999;bulk", {"for_s": 10}),
]


async def test_a_hostile_pause_is_422(api: AdminApi) -> None:
    for lane, body in HOSTILE:
        answer = await api.client.put(f"/admin/pauses/{lane}", json=body, headers=ADMIN)
        assert answer.status_code == 422, (lane, body)
    assert not api.redis.exists(f"{P}:pauses")
