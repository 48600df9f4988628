"""What is counted for each client and key, how it is added up in Redis, and quotas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from api.asgi.http import Answer, RequestHeaders
from api.errors import Problem
from api.keys import parse_quotas
from api.settings import ApiSettings
from api.traffic import MAX_CLIENTS, MAX_SHOWN, Traffic
from batcher.admin.usage import UsageStore
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.commands import AddUsage
from batcher.errors import NoWorker
from tests.conftest import FakeRedis
from tests.integration.test_queue_contract import Bench
from tests.unit.api.admin.conftest import keys
from tests.unit.api.service import Start, assert_problem, until
from tests.unit.fakes import FakeHub

TODAY = datetime.now(UTC).date()


def store(fake: FakeRedis) -> UsageStore:
    return UsageStore(fake.sync, "t", 31)


def hub_of(fake: FakeRedis) -> FakeHub:
    """A hub whose commands run on the fake Redis."""
    bench = Bench(fake.sync)
    return FakeHub(replies=lambda command: bench.worker().run([command])[0])


async def test_usage_adds_up_by_key_and_day(fake_redis: FakeRedis) -> None:
    traffics = [Traffic(ApiSettings(), hub_of(fake_redis), {}) for _ in range(2)]
    for traffic in traffics:
        traffic.count("key:web", texts=3, hits=1, tokens=30, status=200)
        traffic.count("key:web", texts=5, hits=5, tokens=0, status=429)
        traffic.count("192.0.2.7", texts=1, hits=0, tokens=9, status=200)
        await traffic.flush()
        await traffic.flush()
    rows = store(fake_redis).rows(date(2000, 1, 1), date(9999, 1, 1))
    web = {"texts": 16, "tokens": 60, "requests": 4, "hits": 2, "errors": 2}
    assert rows == [
        {"day": str(TODAY), "key": "-", "texts": 2, "tokens": 18, "requests": 2, "hits": 0, "errors": 0},
        {"day": str(TODAY), "key": "web", **web},
    ]
    (key,) = fake_redis.sync.keys("*usage*")
    assert 30 * 86_400 < fake_redis.sync.ttl(key) <= 31 * 86_400
    assert 0 < fake_redis.sync.ttl("{millrace:2:t}:clients") <= 60


async def test_a_flush_that_is_sent_twice_counts_once(fake_redis: FakeRedis) -> None:
    """The reply of the first one was lost."""
    hub = hub_of(fake_redis)
    runs: Callable[[Any], Any] = hub.replies

    def lose(command: Any) -> Any:
        runs(command)
        raise REDIS_ERRORS[0]("gone")

    traffic = Traffic(ApiSettings(), hub, {})
    traffic.count("key:web", 3, 0, 0, 200)
    hub.replies = lose
    await traffic.flush()
    traffic.count("key:web", 4, 0, 0, 200)
    hub.replies = runs
    await traffic.flush()
    await traffic.flush()
    (row,) = store(fake_redis).rows(TODAY, TODAY)
    assert row["texts"] == 7


async def test_one_command_carries_everything_and_silence_none(fake_redis: FakeRedis) -> None:
    hub = hub_of(fake_redis)
    traffic = Traffic(ApiSettings(), hub, {})
    await traffic.flush()
    assert hub.commands == []
    for number in range(MAX_CLIENTS + 50):
        traffic.count(f"192.0.2.{number}", number, 0, 0, 200)
    await traffic.flush()
    await traffic.flush()
    await traffic.flush()
    assert len(hub.commands) == 2, "the second one says that the clients have gone"
    first = hub.commands[0]
    assert isinstance(first, AddUsage)
    assert len(first.rows) == 1
    assert first.clients.count("texts_s") == MAX_SHOWN


async def test_clients_of_all_processes_are_summed(fake_redis: FakeRedis) -> None:
    for _ in range(2):
        traffic = Traffic(ApiSettings(), hub_of(fake_redis), {"key:web": 7, "key:phone": 1})
        traffic.count("key:web", 30, 10, 0, 200)
        traffic.count("key:bad", 0, 0, 0, 429)
        await traffic.flush()
    found = store(fake_redis).clients()
    assert [(row["client"], row["waiting"]) for row in found] == [
        ("key:web", 14),
        ("key:phone", 2),
        ("key:bad", 0),
    ]
    assert 0 < found[0]["hits_s"] < found[0]["texts_s"]
    assert found[2]["refused_s"] > 0


def test_clients_of_a_process_that_stopped_a_while_ago_are_not_shown(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, at_ms in (("late", 984_999), ("last", 985_000), ("new", 1_000_000)):
        counts = {"texts_s": 0.1 if name == "last" else 0.2, "waiting": 1}
        line = f"{at_ms} 7 {json.dumps({'key:web': counts, name: counts})}"
        fake_redis.sync.hset("{millrace:2:t}:clients", name, line)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert store(fake_redis).clients() == [
        {"client": "key:web", "texts_s": 0.3, "waiting": 2},
        {"client": "new", "texts_s": 0.2, "waiting": 1},
        {"client": "last", "texts_s": 0.1, "waiting": 1},
    ]


async def test_a_key_without_quota_left_gets_429_until_midnight(start: Start) -> None:
    service = await start(api_keys=keys(web="one", phone="two"), quotas="web=3")
    service.hub.replies = lambda command: [2 for _ in command.rows]
    for name, expected in (("one", 200), ("two", 200)):
        assert (await service.predict("a", x_api_key=name)).status_code == expected
    await service.predict("b", "c", x_api_key="one")
    answer = await service.predict("d", x_api_key="one")
    body = assert_problem(answer, 429, "quota_exceeded")
    assert "of 3 texts" in str(body["detail"])
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert (await service.predict("d", x_api_key="two")).status_code == 200


async def test_one_request_could_have_any_number_of_texts_above_a_quota(start: Start) -> None:
    service = await start(api_keys=keys(web="one"), quotas="web=3")
    problem = assert_problem(await service.predict(*"abcd", x_api_key="one"), 429, "quota_exceeded")
    assert "more than 3 texts" in str(problem["detail"])
    assert service.hub.asked == []
    assert (await service.predict(*"abc", x_api_key="one")).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/v1/classify"])
async def test_requests_at_once_could_each_have_what_was_left_of_a_quota(start: Start, path: str) -> None:
    """Texts counted once they were answered. Those of a request that is refused are given back."""
    gate = asyncio.Event()
    service = await start(FakeHub(gate=gate), api_keys=keys(web="one"), quotas="web=10")
    field = "text" if path == "/predict" else "input"

    async def ask(texts: str) -> int:
        headers = {"authorization": "Bearer one"}
        return (await service.client.post(path, json={field: [*texts]}, headers=headers)).status_code

    first = [asyncio.create_task(ask(texts)) for texts in ("abcde", "fghij")]
    await until(lambda: len(service.hub.asked) == 2)
    assert await ask("k") == 429
    first[0].cancel()
    gate.set()
    assert await first[1] == 200
    service.hub.refusal = NoWorker("none")
    assert await ask("klmno") == 503
    service.hub.refusal = None
    for texts, status in (("klmnop", 429), ("klmno", 200), ("p", 429)):
        assert await ask(texts) == status


async def test_texts_that_were_being_added_up_did_not_count_for_a_quota() -> None:
    sent = asyncio.Event()
    landed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Slow(FakeHub):
        def run(self, command: Any) -> asyncio.Future[Any]:
            sent.set()
            return landed

    traffic = Traffic(ApiSettings(quotas="web=10"), Slow(), {})
    traffic.count("key:web", 10, 0, 0, 200)
    flush = asyncio.create_task(traffic.flush())
    await sent.wait()
    with pytest.raises(Problem, match="quota_exceeded"):
        traffic.check_quota("key:web")
    landed.set_result([10])
    await flush
    with pytest.raises(Problem, match="quota_exceeded"):
        traffic.check_quota("key:web")


async def test_texts_of_a_request_that_became_a_job_counted_twice(start: Start) -> None:
    async def defer(headers: RequestHeaders, texts: list[str]) -> Answer:
        return Answer(202, [], b"{}")

    service = await start(deferral=defer, api_keys=keys(web="one"), quotas="web=3")
    for _ in range(2):
        answer = await service.predict("a", "b", x_api_key="one", prefer="respond-async")
        assert answer.status_code == 202
    assert (await service.predict("a", "b", "c", x_api_key="one")).status_code == 200


async def test_a_quota_counts_what_other_processes_have_added(fake_redis: FakeRedis) -> None:
    settings = ApiSettings(quotas="web=10")
    other, own = (Traffic(settings, hub_of(fake_redis), {}) for _ in range(2))
    other.count("key:web", 10, 0, 0, 200)
    await other.flush()
    own.check_quota("key:web")
    await own.flush()
    with pytest.raises(Exception, match="quota_exceeded"):
        own.check_quota("key:web")
    own.check_quota("key:phone")


@pytest.mark.parametrize("value", ["web", "web=", "web=0", "web=-1", "web=1e3", "we b=1", "=1", "web=٣"])
def test_a_quota_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="web=100000"):
        parse_quotas(value)


def test_quotas_are_read() -> None:
    assert parse_quotas(" web=100 , phone = 5,") == {"web": 100, "phone": 5}
