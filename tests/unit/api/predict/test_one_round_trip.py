"""The enqueue script checks the cache itself, unless it is better to read the cache first."""

from __future__ import annotations

import asyncio
import re

from batcher.lookup.queue import MIN_S
from batcher.messages import Outcome, entry_id
from tests.unit.api.service import Service, Start, until
from tests.unit.fakes import REVISION, FakeHub, prediction


def looking(*known: str) -> FakeHub:
    """A hub whose queue checks a cache that has these texts."""

    def answer(text: str) -> Outcome:
        return prediction(text)._replace(cached=text in known)

    return FakeHub(looks=True, answer=answer)


async def counted(service: Service, outcome: str) -> float:
    page = (await service.client.get("/metrics")).text
    found = re.search(rf'^millrace_entries_total{{.*outcome="{outcome}".*}} (\S+)$', page, re.M)
    assert found, page
    return float(found[1])


async def test_one_round_trip_asks_cache_and_queue(start: Start) -> None:
    service = await start(looking("a", "b"))
    hit, partial, miss = [await service.predict(*texts) for texts in (["a"], ["b", "c"], ["d"])]
    assert [answer.headers["x-cache"] for answer in (hit, partial, miss)] == ["HIT", "PARTIAL", "MISS"]
    assert "batch" not in hit.headers["server-timing"]
    assert not hit.headers["server-timing"].startswith("cache;dur=0.000")
    assert service.hub.revisions == [REVISION] * 3
    assert service.cache.lookups == []
    assert [await counted(service, name) for name in ("hit_shared", "computed")] == [2, 2]
    again = await service.predict("a", "b", "c", "d")
    assert again.headers["x-cache"] == "HIT"
    assert len(service.hub.asked) == 3


async def test_what_the_cache_knew_is_copied_for_a_shorter_time_than_what_is_new(start: Start) -> None:
    service = await start(looking("known"), cache_ttl_s=1)
    await service.predict("known", "new")
    await asyncio.sleep(0.15)  # copies live for a tenth of the TTL
    await service.predict("known", "new")
    assert service.hub.asked == [["known", "new"], ["known"]]


async def test_the_cache_is_asked_first_while_it_knows_most_texts(start: Start) -> None:
    texts = [str(number) for number in range(40)]
    service = await start(looking(*texts))
    for text in texts:
        service.cache.keep(text)
        assert (await service.predict(text)).headers["x-cache"] == "HIT"
    assert 5 < len(service.hub.asked) < 30, "first the queue, until it was plain that most are known"
    assert len(service.cache.lookups) == 40 - len(service.hub.asked)
    for number in range(40):
        assert (await service.predict(f"new {number}")).headers["x-cache"] == "MISS"
    assert len(service.cache.lookups) < 60, "and the queue at once when that has changed"


async def test_the_cache_is_asked_first_where_the_queue_may_refuse(start: Start) -> None:
    hub = looking()
    hub.gate = asyncio.Event()
    service = await start(hub, max_client_texts=3)
    service.cache.keep("known")
    first = asyncio.create_task(service.predict("a", "b"))
    await until(lambda: hub.asked)
    assert (await service.predict("known", "known too", "c")).status_code == 429
    assert (await service.predict("known")).headers["x-cache"] == "HIT"
    assert service.cache.lookups[0] == (REVISION, [entry_id(text) for text in ("known", "known too", "c")])
    hub.gate.set()
    assert (await first).status_code == 200


async def test_the_cache_is_asked_first_where_time_is_short(start: Start) -> None:
    service = await start(looking())
    service.cache.keep("known")
    assert (await service.predict("known", prefer=f"wait={MIN_S / 2}")).headers["x-cache"] == "HIT"
    assert (await service.predict("new", prefer="wait=5")).headers["x-cache"] == "MISS"
    assert len(service.cache.lookups) == 1
