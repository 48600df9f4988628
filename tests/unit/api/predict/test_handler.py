"""Successful requests to POST /predict: order, caches, headers, budgets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.core.snapshot import NO_SNAPSHOT
from batcher.messages import Prediction, entry_id
from tests.unit.api.service import Service, Start
from tests.unit.fakes import MODEL, OTHER_REVISION, REVISION, RUNNING, FakeHub, prediction


def expected(*texts: str) -> dict[str, object]:
    return {"predictions": [json.loads(prediction(text).fragment) for text in texts]}


def timings(header: str) -> dict[str, str]:
    """Server-Timing as {"cache": "dur=0.1", ...}."""
    return dict(part.strip().split(";", 1) for part in header.split(","))


async def test_answers_in_the_order_of_the_texts(service: Service) -> None:
    response = await service.predict("b", "a", "c")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == expected("b", "a", "c")
    assert [[pair["label"] for pair in pairs] for pairs in response.json()["predictions"]] == [
        ["NEGATIVE", "POSITIVE"]
    ] * 3


async def test_second_time_is_a_hit_in_the_process(service: Service) -> None:
    first = await service.predict("a", "b")
    second = await service.predict("b", "a")
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT")
    assert second.json() == expected("b", "a")
    assert service.hub.asked == [["a", "b"]]
    assert len(service.cache.lookups) == 1


async def test_only_what_is_missing_goes_on(service: Service) -> None:
    await service.predict("a")
    service.cache.keep("b")
    response = await service.predict("a", "b", "c")
    assert response.headers["x-cache"] == "PARTIAL"
    assert response.json() == expected("a", "b", "c")
    assert service.cache.lookups[-1] == (REVISION, [entry_id("b"), entry_id("c")])
    assert service.hub.asked == [["a"], ["c"]]


async def test_shared_cache_alone_is_a_hit_and_fills_the_process(service: Service) -> None:
    service.cache.keep("a")
    assert (await service.predict("a")).headers["x-cache"] == "HIT"
    assert (await service.predict("a")).headers["x-cache"] == "HIT"
    assert len(service.cache.lookups) == 1
    assert service.hub.asked == []


async def test_a_copy_lives_for_a_tenth_of_the_shared_life(start: Start) -> None:
    service = await start(cache_ttl_s=3.0)
    service.cache.keep("a")
    await service.predict("a")
    await service.predict("a")
    assert len(service.cache.lookups) == 1
    await asyncio.sleep(0.35)
    await service.predict("a")
    assert len(service.cache.lookups) == 2


async def test_a_text_given_twice_is_asked_for_once(service: Service) -> None:
    response = await service.predict("a", "b", "a")
    assert response.json() == expected("a", "b", "a")
    assert response.headers["x-cache"] == "MISS"
    assert service.hub.asked == [["a", "b"]]


async def test_without_an_in_process_cache_the_shared_one_is_asked(start: Start) -> None:
    service = await start(local_cache_entries=0)
    service.cache.keep("a")
    for _ in range(2):
        assert (await service.predict("a")).headers["x-cache"] == "HIT"
    assert len(service.cache.lookups) == 2


async def test_blank_texts_are_texts(service: Service) -> None:
    assert (await service.predict("", " ")).json() == expected("", " ")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/vnd.service+json",
        "application/x-www-form-urlencoded",  # what `curl -d` sends without a stated type
        "",
    ],
)
async def test_json_by_any_of_its_names(service: Service, content_type: str) -> None:
    response = await service.post(b'{"text": ["a"]}', content_type=content_type)
    assert response.json() == expected("a")


async def test_a_byte_order_mark_is_no_mistake(service: Service) -> None:
    assert (await service.post(b'\xef\xbb\xbf{"text": ["a"]}')).json() == expected("a")


async def test_json_without_any_content_type(service: Service) -> None:
    assert (await service.post(b'{"text": ["a"]}')).json() == expected("a")


async def test_request_id_is_taken_over_when_sane(service: Service) -> None:
    assert (await service.predict("a", x_request_id="Abc-1._z")).headers["x-request-id"] == "Abc-1._z"


@pytest.mark.parametrize("given_id", ["", "a b", "ü", "a" * 129, "a;b", 'a"b', "<script>"])
async def test_request_id_is_new_when_not_sane(service: Service, given_id: str) -> None:
    response = await service.client.post(
        "/predict", json={"text": ["a"]}, headers=[(b"x-request-id", given_id.encode())]
    )
    assert len(response.headers["x-request-id"]) == 32
    assert int(response.headers["x-request-id"], 16) > 0


async def test_request_ids_differ(service: Service) -> None:
    ids = {(await service.predict("a")).headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


async def test_a_hit_repeats_the_preference_too(service: Service) -> None:
    for _ in range(2):
        response = await service.predict("a", prefer="wait=100")
        assert response.headers["preference-applied"] == "wait=60"
    assert "preference-applied" not in (await service.predict("a")).headers


async def test_timing_of_a_miss_names_every_stage(service: Service) -> None:
    stages = timings((await service.predict("a")).headers["server-timing"])
    assert list(stages) == ["cache", "queue", "batch", "tokenize", "model", "total"]
    assert stages["queue"] == "dur=1.500"
    assert stages["batch"] == 'desc="2"'
    assert stages["tokenize"] == "dur=0.200"
    assert stages["model"] == "dur=4.000"
    assert float(stages["total"].removeprefix("dur=")) >= float(stages["cache"].removeprefix("dur="))


async def test_timing_of_a_hit_names_no_batch(service: Service) -> None:
    service.cache.keep("a")
    assert list(timings((await service.predict("a")).headers["server-timing"])) == ["cache", "total"]
    assert list(timings((await service.predict("a")).headers["server-timing"])) == ["cache", "total"]


async def test_timing_of_several_batches_is_that_of_the_slowest(start: Start) -> None:
    def answer(text: str) -> Prediction:
        slow = text == "slow"
        return prediction(text)._replace(queue_ms=9.0 if slow else 1.0, batch_size=1 if slow else 32)

    service = await start(FakeHub(answer=answer))
    stages = timings((await service.predict("fast", "slow")).headers["server-timing"])
    assert (stages["queue"], stages["batch"]) == ("dur=9.000", 'desc="32"')


async def test_truncated_texts_are_counted_however_they_are_answered(start: Start) -> None:
    service = await start(
        FakeHub(answer=lambda text: prediction(text, truncated=40 if text == "long" else 0))
    )
    service.cache.keep("long too", truncated=1)
    for cache in ("PARTIAL", "HIT"):
        response = await service.predict("long", "short", "long too")
        assert (response.headers["x-cache"], response.headers["x-truncated"]) == (cache, "2")
        assert response.headers["x-truncated-tokens"] == "41"
    assert "x-truncated" not in (await service.predict("short")).headers


async def test_texts_that_the_model_does_not_know_are_counted_however_they_are_answered(start: Start) -> None:
    service = await start(FakeHub(answer=lambda text: prediction(text, foreign=text == "foreign")))
    service.cache.keep("foreign too", foreign=True)
    for cache in ("PARTIAL", "HIT"):
        response = await service.predict("foreign", "known", "foreign too")
        assert (response.headers["x-cache"], response.headers["x-unknown"]) == (cache, "2")
    assert "x-unknown" not in (await service.predict("known")).headers


@pytest.mark.parametrize("kept", [False, True])
async def test_texts_that_the_model_does_not_know_are_refused_if_so_set(start: Start, kept: bool) -> None:
    hub = FakeHub(answer=lambda text: prediction(text, foreign=text == "foreign"))
    service = await start(hub, refuse_unknown=True)
    if kept:
        service.cache.keep("foreign", foreign=True)
    for _ in range(2):
        response = await service.predict("known", "foreign")
        assert (response.status_code, response.json()["code"]) == (422, "text_unknown")
        assert response.json()["index"] == 1
    assert (await service.predict("known")).headers["x-cache"] == "HIT"


async def test_model_is_named_with_its_short_revision(service: Service) -> None:
    for _ in range(2):
        assert (await service.predict("a")).headers["x-model"] == "stub@a1b2c3d4e5f6"


async def test_answers_of_two_revisions_name_both_and_are_remembered_under_their_own(start: Start) -> None:
    service = await start(FakeHub(answer=lambda text: prediction(text, OTHER_REVISION)))
    service.cache.keep("old")
    mixed = await service.predict("new", "old")
    assert mixed.headers["x-model"] == "@ffeeddccbbaa, stub@a1b2c3d4e5f6", "the new one is not published yet"
    # "new" is only cached for the other revision, so it is a miss until that one is the current revision.
    assert (await service.predict("new")).headers["x-cache"] == "MISS"
    model = replace(RUNNING.model, revision=OTHER_REVISION)  # type: ignore[type-var]
    service.hub.snapshot = replace(RUNNING, model=model)
    hit = await service.predict("new")
    assert (hit.headers["x-cache"], hit.headers["x-model"]) == ("HIT", "stub@ffeeddccbbaa")


async def test_a_model_name_cannot_break_its_header(start: Start) -> None:
    model = replace(RUNNING.model, name="né\r\nx: y, z")  # type: ignore[type-var]
    service = await start(FakeHub(snapshot=replace(RUNNING, model=model)))
    assert (await service.predict("a")).headers["x-model"] == "n___x:_y__z@a1b2c3d4e5f6"


async def test_known_texts_are_answered_while_no_worker_lives(service: Service) -> None:
    await service.predict("a")
    service.hub.snapshot, service.hub.reachable = NO_SNAPSHOT, False
    response = await service.predict("a")
    assert (response.status_code, response.headers["x-cache"]) == (200, "HIT")


async def test_no_cache_is_asked_before_a_model_is_known(start: Start) -> None:
    service = await start(FakeHub(snapshot=NO_SNAPSHOT))
    assert (await service.predict("a")).status_code == 200
    assert service.cache.lookups == []


@pytest.mark.parametrize(
    ("prefer", "budget_s"),
    [
        (None, 10.0),
        ("wait=3", 3.0),
        ("wait=0.5", 0.5),
        ("wait=100", 60.0),
        ("wait=soon", 10.0),
        ("wait=-1", 10.0),
        ("wait", 10.0),
        ("handling=lenient, wait=4; x=y", 4.0),
        ('Wait="5"', 5.0),
    ],
)
async def test_budget(service: Service, prefer: str | None, budget_s: float) -> None:
    response = await service.predict("a", **({"prefer": prefer} if prefer else {}))
    assert response.status_code == 200
    assert service.hub.budgets == [pytest.approx(budget_s, abs=0.2)]
    applied = response.headers.get("preference-applied")
    assert applied == (None if budget_s == 10.0 else f"wait={budget_s:g}")


async def test_trace_context_travels_with_the_entries(service: Service) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    await service.predict("a", traceparent=trace)
    await service.predict("b", traceparent="00-nonsense")
    assert service.hub.traces == [trace, ""]


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=12), ascii_only=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_text_of_any_unicode_is_answered_in_its_place(
    service: Service, texts: list[str], ascii_only: bool
) -> None:
    hub, cache = service.hub, service.cache
    # The service is that of all examples: none finds the results of another, which are of another revision.
    revision = f"{len(cache.lookups):064x}"
    hub.snapshot = replace(RUNNING, model=replace(MODEL, revision=revision))
    hub.answer = partial(prediction, revision=revision)
    hub.asked.clear()
    for text in texts[::3]:
        cache.held[revision, entry_id(text)] = prediction(text, revision)
    body = json.dumps({"text": texts}, ensure_ascii=ascii_only).encode()
    for _ in range(2):
        response = await service.post(body)
        assert response.json() == expected(*texts)
    asked = [text for call in hub.asked for text in call]
    assert set(asked) == set(texts) - set(texts[::3])
    assert len(asked) == len(set(asked))
