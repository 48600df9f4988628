"""The console of a queue of three shards: the API and workers in this process, over fake servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import httpx
import pytest

from api.admin.service import ConsoleStores
from api.admin.traces import Traces
from api.jobs.service import JobBackend
from api.main import create_app
from api.parts import Backends
from api.settings import ApiSettings
from batcher.core.commands import Enqueue, EnqueueAll, NoteRefused
from batcher.core.holds import in_force
from batcher.core.keys import cache_key, prefix
from batcher.hub.hub import ReplyHub
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from batcher.messages import Failure, entry_id
from model_store.stub import StubClassifier
from tests.answers import right
from tests.fakes import heartbeat_queue
from tests.operators import SETTING, OperatorAuth
from tests.shards import NAME, Fleet, texts_at, until
from tests.signing import SIGNED
from tests.unit.fakes import FakeCache

SHARDS = 3
NAMES = [f"{NAME}:{number}" if number else NAME for number in range(SHARDS)]
FAILURE = Failure("inference_failed", "no").encode()
REVISION = StubClassifier().info.revision


class Service:
    """An API over the shards of a fleet. Its jobs are on a server of their own."""

    def __init__(self, fleet: Fleet, hub: ReplyHub, client: httpx.AsyncClient) -> None:
        self.fleet, self.hub, self._client = fleet, hub, client

    async def ask(self, method: str, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
        sent = {"params": body} if method == "GET" else {"json": body}
        answer = await self._client.request(method, f"/admin/{path}", **sent)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def predict(self, text: object, request_id: str = "some") -> httpx.Response:
        return await self._client.post("/predict", json={"text": text}, headers={"x-request-id": request_id})

    async def lose(self, number: int) -> None:
        """The Redis of a shard ends."""
        self.fleet.servers[number].connected = False
        await until(lambda: not self.hub.shards_up[number], "the outage")


@asynccontextmanager
async def serving(fleet: Fleet, up: Sequence[int] = range(SHARDS)) -> AsyncIterator[Service]:
    """A service that has found these shards."""
    settings = ApiSettings(
        name=NAME, redis_url="redis://a redis://b redis://c", keep_refused_texts=True, admin_keys=SETTING
    )
    own = fakeredis.FakeRedis()
    jobs = JobBackend(JobStore(own, NAME, 3600), JobQueue(own, settings))
    hub, stores = fleet.new_hub(), ConsoleStores(fleet.clients, jobs, settings)
    app = create_app(settings, Backends(hub, FakeCache(), jobs, stores))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 1234))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", auth=OperatorAuth()) as client,
    ):
        await until(lambda: all(hub.shards_up[number] for number in up), "the shards")
        yield Service(fleet, hub, client)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    fleet = Fleet(SHARDS)
    async with serving(fleet) as found:
        yield found
    await fleet.close()


def refuse(service: Service, text: str, number: int) -> str:
    """A text of a shard that two workers fail on."""
    entry, client, name = entry_id(text), service.fleet.clients[number], NAMES[number]
    queue = heartbeat_queue(client, name, "w", lease_ms=60_000, max_attempts=1, result_ms=60_000)
    queue.run([EnqueueAll([Enqueue([entry], [text], [5], "a", "interactive", 60_000, 1000)])])
    queue.claim(10, 100, 100)
    client.set(f"{prefix(name)}:failed:{entry}", "w0", px=60_000)
    queue.complete([(entry, FAILURE)])
    client.delete(f"{prefix(name)}:reply:a", f"{prefix(name)}:failed:{entry}", f"{prefix(name)}:res:{entry}")
    service.hub.console.send_to_all(NoteRefused(entry, f"key:c{number}", text))
    return entry


async def refused_everywhere(service: Service, count: int) -> list[str]:
    """The ids of so many refused texts at each shard, once their clients are known."""
    found = [
        refuse(service, text, number)
        for number in range(SHARDS)
        for text in texts_at(number, SHARDS, count, "bad")
    ]
    notes = [
        (client, f"{prefix(name)}:refused:*")
        for client, name in zip(service.fleet.clients, NAMES, strict=True)
    ]
    await until(lambda: sum(len(client.keys(key)) for client, key in notes) == len(found), "the notes")
    return found


async def test_a_pause_holds_at_every_shard_that_is_up_and_names_the_others(service: Service) -> None:
    kept = list(zip(service.fleet.clients, [f"{prefix(name)}:pauses" for name in NAMES], strict=True))

    def paused() -> list[bool]:
        return [b" keep " in (client.get(key) or b"") for client, key in kept]

    answer = await service.ask("PUT", "pauses/all", for_s=60)
    assert answer["pauses"].keys() == {"interactive", "bulk"}
    assert "shards_down" not in answer
    assert paused() == [True] * SHARDS
    await service.ask("DELETE", "pauses/all")
    assert paused() == [False] * SHARDS

    await service.lose(0)
    answer = await service.ask("PUT", "pauses/bulk", for_s=60)
    assert (answer["pauses"].keys(), answer["shards_down"]) == ({"bulk"}, [0])
    await until(lambda: in_force(service.hub.snapshot.pauses).keys() == {"bulk"}, "the pause")
    shown = await service.ask("GET", "pauses")
    assert (shown["pauses"].keys(), shown["shards_down"]) == ({"bulk"}, [0])

    client, key = kept[2]
    client.delete(key)  # as if it had been added since
    service.fleet.servers[0].connected = True
    await until(lambda: all(paused()), "every shard to know of the pause")
    await service.lose(1)
    answer = await service.ask("DELETE", "pauses/bulk")
    assert (answer["pauses"], answer["shards_down"]) == ({}, [1])
    service.fleet.servers[1].connected = True
    await until(lambda: not any(paused()), "every shard to know of the end of the pause")


async def test_a_process_that_started_without_the_first_shard_let_held_clients_in(service: Service) -> None:
    """Holds were kept at shard 0 only."""

    def held(one: Service) -> dict[str, str]:
        return {client: hold.what for client, hold in one.hub.snapshot.holds.items()}

    assert "shards_down" not in await service.ask("POST", "clients/hold", client="127.0.0.1", for_s=60)
    await until(lambda: held(service) == {"127.0.0.1": "all"}, "the hold")
    await service.lose(0)
    async with serving(service.fleet, up=(1, 2)) as other:
        await until(lambda: held(other) == {"127.0.0.1": "all"}, "the hold")
        assert (await other.predict(["a"])).json()["code"] == "client_paused"

    body: dict[str, Any] = {"client": "key:web", "what": "uncached", "for_s": 600}
    assert await service.ask("POST", "clients/hold", **body) == {**body, "shards_down": [0]}
    ended = await service.ask("POST", "clients/resume", client="127.0.0.1")
    assert ended == {"ended": True, "shards_down": [0]}
    await until(lambda: held(service) == {"key:web": "uncached"}, "what has changed while shard 0 is down")

    service.fleet.servers[0].connected = True
    await until(lambda: held(service) == {"127.0.0.1": "all", "key:web": "uncached"}, "what shard 0 knows")
    listed = (await service.ask("GET", "clients"))["held"]
    assert [(one["client"], one["what"]) for one in listed] == [("127.0.0.1", "all"), ("key:web", "uncached")]
    assert await service.ask("POST", "clients/resume", client="127.0.0.1") == {"ended": True}
    await until(lambda: held(service) == {"key:web": "uncached"}, "the end of the hold")


async def test_refused_texts_of_all_shards_are_one_list(service: Service) -> None:
    ids = await refused_everywhere(service, 3)
    seen, cursor = list[dict[str, Any]](), ""
    while True:
        page = await service.ask("GET", "refused", limit=2, cursor=cursor)
        seen += page["refused"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert sorted(record["id"] for record in seen) == sorted(ids)
    order = [(record["at_ms"], record["id"]) for record in seen]
    assert order == sorted(order, reverse=True)
    clients = {entry: f"key:c{number // 3}" for number, entry in enumerate(ids)}
    assert all(record["client"] == clients[record["id"]] and record["text"] for record in seen)

    await service.lose(1)
    page = await service.ask("GET", "refused")
    assert page["shards_down"] == [1]
    assert {record["id"] for record in page["refused"]} == {*ids[:3], *ids[6:]}
    assert await service.ask("POST", "refused/delete", filter={}) == {"deleted": 6, "shards_down": [1]}


async def test_refused_texts_of_all_shards_are_tried_again(service: Service) -> None:
    ids = await refused_everywhere(service, 1)
    await service.fleet.worker(1)
    await service.fleet.ready(service.hub)
    counts = await service.ask("POST", "refused/retry", filter={})
    assert counts == {"found": 3, "not_held": 0, "classified": 3, "failed": 0}
    assert (await service.ask("GET", "refused"))["refused"] == []
    assert await service.ask("POST", "refused/release", ids=ids) == {"released": 0}


async def test_the_newest_of_all_shards_are_tried_again_first(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.admin.refused.MAX_RETRIED", 2)
    await refused_everywhere(service, 2)
    listed = (await service.ask("GET", "refused"))["refused"]
    await service.fleet.worker(1)
    await service.fleet.ready(service.hub)
    assert (await service.ask("POST", "refused/retry", filter={}))["classified"] == 2
    assert (await service.ask("GET", "refused"))["refused"] == listed[2:]


async def test_a_text_is_forgotten_at_every_shard_that_is_up(service: Service) -> None:
    texts = [texts_at(number, SHARDS, 1)[0] for number in range(SHARDS)]
    keys = [cache_key(NAME, REVISION, entry_id(text)) for text in texts]

    def cache() -> None:
        for client, key in zip(service.fleet.clients, keys, strict=True):
            client.set(key, b"x")

    cache()
    before = service.hub.snapshot.forgotten
    for text in texts:
        answer = await service.ask("POST", "forget", text=text)
        assert (answer["keys"], answer["removed"]["cached"]) == (1, 1)
    await until(lambda: service.hub.snapshot.forgotten == before + 3 * SHARDS, "the other processes")

    cache()
    await service.lose(2)
    answer = await service.ask("POST", "forget", revision=REVISION)
    assert (answer["removed"], answer["shards_down"]) == ({"cached": 2, "results": 0, "jobs": 0}, [2])
    answer = await service.ask("POST", "forget", client="key:c1")
    assert answer["shards_down"] == [2]
    newest = (await service.ask("GET", "audit"))["audit"][0]
    assert (newest["action"], newest["shards_down"]) == ("forget", [2])


async def test_workers_of_all_shards_say_what_they_ran(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traces, "open_s", 60.0)
    for home in range(SHARDS):
        await service.fleet.worker(home, lease_ms=1000)
    await service.fleet.ready(service.hub, SHARDS)
    texts = [text for number in range(SHARDS) for text in texts_at(number, SHARDS, 2)]
    assert (await service.predict(texts, "here")).json()["predictions"]
    found = await service.ask("GET", "traces/here")
    ran = [step for step in found["timeline"] if step["step"] == "batch"]
    assert sum(step["texts"] for step in ran) >= len(texts)
    assert all(step["worker"] for step in ran)


async def test_another_process_is_asked_through_any_shard(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traces, "open_s", 60.0)
    async with serving(service.fleet) as other:
        assert (await other.predict(1, "there")).status_code == 422
        await asyncio.gather(service.lose(0), other.lose(0))
        found = await service.ask("GET", "traces/there")
        assert (found["request_id"], found["status"]) == ("there", 422)


async def test_what_the_first_shard_keeps_for_all_says_so_when_it_is_down(service: Service) -> None:
    await service.ask("POST", "clients/hold", client="key:web", for_s=60)
    await service.lose(2)
    kept = ("audit", "clients", "usage", "history")
    for path in (*kept, "models"):
        await service.ask("GET", path)
    await service.lose(0)
    for path in kept:
        problem = await service.ask("GET", path, 503)
        assert problem["code"] == "redis_unavailable"
        assert "shard 0 of 3" in problem["detail"]
    for path in ("jobs", "models"):
        await service.ask("GET", path)
    await service.fleet.worker(1)
    await until(lambda: service.hub.snapshot.workers, "a worker")
    (text,) = texts_at(1, SHARDS, 1)
    assert (await service.predict([text])).content.count(right(text, model=SIGNED)[0]) == 1
