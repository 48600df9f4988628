"""Refused texts: the records, who sees the texts, and trying again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import redis

from batcher.admin.refused import RefusedFilter, RefusedTexts, merge_pages
from batcher.core.commands import Enqueue, EnqueueAll, NoteRefused
from batcher.errors import EntryFailed, EntryPoisoned
from batcher.messages import entry_id
from tests.conftest import FakeRedis
from tests.search.planted import Fault, planted
from tests.unit.api.admin.conftest import AdminApi, P, Start
from tests.unit.api.admin.test_forget import refuse
from tests.unit.fakes import FakeHub, prediction


def fill(client: redis.Redis, count: int, first_ms: int = 1_700_000_000_000) -> None:
    """Records as the scripts write them: every tenth is poison, of three workers and two clients."""
    places, records = dict[str, int](), dict[str, str]()
    for number in range(count):
        entry, at_ms = f"{number:064x}", first_ms + number
        code = "poison" if number % 10 == 0 else "inference_failed"
        places[f"{at_ms}:{entry}"] = 0
        records[entry] = (
            f'{{"id":"{entry}","place":"{at_ms}:{entry}","code":"{code}","attempts":3,"lane":"interactive",'
            f'"workers":"w{number % 3} w9","revision":"rev{number % 2}","client":"key:c{number % 2}"}}'
        )
    client.zadd(f"{P}:refused", places)
    client.hset(f"{P}:refusals", mapping=records)


async def test_a_poisoned_text_has_a_record(api: AdminApi) -> None:
    """Three workers take it alone and die; then the sweep gives it up."""
    before_ms = time.time() * 1000
    api.worker().run([EnqueueAll([Enqueue(["a" * 64], ["kills"], [5], "a", "bulk", 60_000, 1000)])])
    api.redis.hset(f"{P}:model", "revision", "rev")
    for name in ("w1", "w2"):
        api.worker(name).claim(10, 100, 100)
        for place in api.redis.zrange(f"{P}:inflight", 0, -1):
            api.redis.zadd(f"{P}:inflight", {place: time.time() * 1000 - 1})
    api.worker("w3").claim(10, 100, 100)
    (record,) = (await api.get("/refused")).json()["refused"]
    assert before_ms - 1000 < record.pop("at_ms") < time.time() * 1000 + 1000
    assert record == {
        "id": "a" * 64,
        "code": "poison",
        "attempts": 1,
        "revision": "rev",
        "lane": "bulk",
        "workers": ["w2"],
        "client": "",
        "text_held": False,
    }
    for key in ("refused", "refusals"):
        assert 0 < api.redis.pttl(f"{P}:{key}") <= 7 * 86_400_000


async def test_a_failed_text_has_a_record_with_its_workers_and_client(start: Start) -> None:
    api = await start(keep_refused_texts=True)
    entry = refuse(api, "it fails", "key:web")
    page = (await api.get("/refused")).json()
    (record,) = page["refused"]
    assert page["texts_shown"] is True
    assert (record["id"], record["code"], record["workers"]) == (entry, "inference_failed", ["w0", "w1"])
    assert (record["client"], record["text"], record["chars"]) == ("key:web", "it fails", 8)


async def test_a_list_shows_the_first_500_characters_of_a_text(start: Start) -> None:
    api = await start(keep_refused_texts=True)
    for chars in (500, 501):
        refuse(api, "x" * chars, "key:web")
    records = (await api.get("/refused")).json()["refused"]
    assert {(record["text"], record["chars"]) for record in records} == {("x" * 500, 500), ("x" * 500, 501)}


async def test_a_page_holds_few_texts_at_a_time(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 texts of 80 KB took 61 MiB."""
    asked: list[int] = []
    read = RefusedTexts.texts

    def counting(self: RefusedTexts, ids: Sequence[str]) -> list[str | None]:
        asked.append(len(ids))
        return read(self, ids)

    monkeypatch.setattr(RefusedTexts, "texts", counting)
    ids = [f"{number:064x}" for number in range(120)]
    fake_redis.sync.set(f"{P}:refused:{ids[119]}", "x" * 600)
    found = RefusedTexts(fake_redis.sync, "default").beginnings(ids, 500)
    assert found == [None] * 119 + [("x" * 500, 600)]
    assert asked == [50, 50, 20]


async def test_texts_are_not_shown_unless_a_setting_allows_it(api: AdminApi) -> None:
    refuse(api, "it fails")
    answer = await api.get("/refused")
    assert "it fails" not in answer.text
    assert answer.json()["texts_shown"] is False


async def test_the_api_notes_the_client_and_only_keeps_the_text_if_asked(start: Start) -> None:
    for keeps in (False, True):
        hub = FakeHub(answer=lambda text: EntryFailed("no"))
        api = await start(hub, keep_refused_texts=keeps)
        assert (await api.client.post("/predict", json={"text": ["bad"]})).status_code == 500
        assert hub.commands[-1:] == [NoteRefused(entry_id("bad"), "127.0.0.1", "bad" if keeps else None)]


async def test_pages_and_filters(api: AdminApi) -> None:
    fill(api.redis, 95)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get("/refused", code="inference_failed", limit=20, cursor=cursor)).json()
        seen += [record["id"] for record in page["refused"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"{number:064x}" for number in range(94, -1, -1) if number % 10]
    wanted = {"worker": "w2", "client": "key:c1", "revision": "rev1", "since_ms": 1_700_000_000_050}
    page = (await api.get("/refused", until_ms=1_700_000_000_060, **wanted)).json()
    assert [int(record["id"], 16) for record in page["refused"]] == [59, 53]


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({}, True),
        ({"since_ms": 0, "until_ms": 0}, True),
        ({"code": "poison"}, True),
        ({"code": "inference_failed"}, False),
        ({"revision": "abcd"}, True),
        ({"revision": "bcde"}, False),
        ({"worker": "w12"}, True),
        ({"worker": "w1"}, False),
        ({"client": "key:web"}, True),
        ({"client": "key:we"}, False),
        ({"code": "poison", "revision": "abcde", "worker": "w3", "client": "key:web"}, True),
    ],
)
def test_a_record_has_all_that_is_wanted(wanted: dict[str, Any], matches: bool) -> None:
    record = {"code": "poison", "revision": "abcdef", "workers": "w12 w3"}
    assert RefusedFilter(**wanted).matches(record | {"client": "key:web"}) == matches
    assert RefusedFilter(**wanted).matches(record) == (matches and "client" not in wanted)


@pytest.mark.parametrize(
    ("pages", "places", "following"),
    [
        ([([], ""), ([], "")], [], ""),
        ([([9, 5], ""), ([7, 3], "")], [9, 7, 5], "5"),
        ([([9, 5], ""), ([7], "")], [9, 7, 5], ""),
        ([([9, 5], "5"), ([7, 3], "2")], [9, 7, 5], "5"),
        ([([9], "8"), ([7, 8], "")], [9, 8], "8"),
    ],
)
def test_a_page_of_several_shards_ends_where_the_first_of_theirs_does(
    pages: list[tuple[list[int], str]], places: list[int], following: str
) -> None:
    found = [([{"place": str(place)} for place in some], end) for some, end in pages]
    assert merge_pages(found, 3) == ([{"place": str(place)} for place in places], following)


HOSTILE: list[dict[str, Any]] = [
    {"code": "any"},
    {"revision": "*"},
    {"worker": "a b"},
    {"client": "<b>"},
    {"client": "\x00"},
    {"since_ms": -1},
    {"until_ms": 10**13},
    {"limit": 0},
    {"limit": 1001},
    {"cursor": "(+inf"},
    {"cursor": "1" * 13 + ":" + "g" * 64},
    {"unknown": "1"},
]


async def test_a_hostile_filter_is_422(api: AdminApi) -> None:
    for query in HOSTILE:
        answer = await api.get("/refused", **query)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), query
        assert answer.json()["detail"][0]["loc"][-1] in query


async def test_a_hostile_selection_is_422(api: AdminApi) -> None:
    bodies: list[dict[str, Any]] = [{}, {"ids": []}, {"ids": ["x"]}, {"ids": ["0" * 64], "filter": {}}]
    for action, body in product(("retry", "release", "delete"), bodies):
        assert (await api.post(f"/refused/{action}", **body)).status_code == 422, (action, body)


async def test_trying_again_says_what_it_could_not(start: Start) -> None:
    def answer(text: str) -> Any:
        return EntryPoisoned("no") if text == "still bad" else prediction(text)

    api = await start(FakeHub(answer=answer), keep_refused_texts=True)
    good, bad, gone = (refuse(api, text) for text in ("now good", "still bad", "gone"))
    api.redis.delete(f"{P}:refused:{gone}")
    for entry in (good, bad, gone):
        api.redis.set(f"{P}:res:{entry}", b'{"code":"poison","message":"x"}\n', px=60_000)
    counts = (await api.post("/refused/retry", filter={})).json()
    assert counts == {"found": 3, "not_held": 1, "classified": 1, "failed": 1}
    left = {record["id"] for record in (await api.get("/refused")).json()["refused"]}
    assert left == {bad, gone}
    assert [api.redis.exists(f"{P}:res:{entry}") for entry in (good, bad, gone)] == [0, 0, 1]
    assert api.hub.commands[-1] == NoteRefused(bad, "127.0.0.1", "still bad")


async def test_release_and_delete(api: AdminApi) -> None:
    first, second = refuse(api, "one"), refuse(api, "two")
    api.redis.set(f"{P}:res:{first}", b'{"code":"poison","message":"x"}\n', px=60_000)
    api.redis.set(f"{P}:res:{second}", prediction("two").encode(), px=60_000)
    assert (await api.post("/refused/release", filter={})).json() == {"released": 1}
    assert not api.redis.exists(f"{P}:res:{first}")
    assert api.redis.exists(f"{P}:res:{second}"), "a result is not a mark"
    assert (await api.post("/refused/delete", ids=[first])).json() == {"deleted": 1}
    assert (await api.post("/refused/delete", ids=[first])).json() == {"deleted": 0}
    assert not api.redis.exists(f"{P}:refused:{first}")
    assert [record["id"] for record in (await api.get("/refused")).json()["refused"]] == [second]


async def test_only_the_newest_are_kept(api: AdminApi) -> None:
    """Of ten thousand; here of a hundred."""
    fill(api.redis, 103, round(time.time() * 1000) - 20_000)
    with planted(Fault("fewer", "common", "MAX_REFUSED = 10000", "MAX_REFUSED = 100")):
        newest = refuse(api, "newest")
    assert api.redis.zcard(f"{P}:refused") == api.redis.hlen(f"{P}:refusals") == 100
    assert api.redis.hexists(f"{P}:refusals", newest)
    assert not api.redis.hexists(f"{P}:refusals", f"{3:064x}")


async def test_old_records_go_when_new_ones_come(api: AdminApi) -> None:
    fill(api.redis, 8)
    newest = refuse(api, "newest")
    assert api.redis.hkeys(f"{P}:refusals") == [newest.encode()]


async def test_a_page_takes_few_commands_however_many_records_there_are(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(api.redis, 2500)
    sent: list[str] = []
    execute = redis.Redis.execute_command

    def counting(self: Any, *words: Any, **options: Any) -> Any:
        if self is api.redis:  # the API's sweeps have a client of the same class
            sent.append(words[0])
        return execute(self, *words, **options)

    monkeypatch.setattr(redis.Redis, "execute_command", counting)
    records, cursor = RefusedTexts(api.redis, "default").page(RefusedFilter(code="poison"), 1000)
    assert sent == ["ZREVRANGEBYLEX", "HMGET"], "and one pipeline, which asks whether texts are kept"
    assert (len(records), bool(cursor)) == (200, True), "one page examines 2000 records"
