"""A shadow between requests and the candidate's queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from api.metrics import Metrics
from api.models.served import Served
from api.models.shadow import REQUESTS, Shadow
from api.predict.found import LookupResult
from api.predict.lookup import LookupRequest
from batcher.core.revisions import Candidate
from batcher.errors import EntryFailed, QueueFull
from batcher.messages import entry_id
from tests.many import until_async
from tests.unit.pretended import FakeHub, prediction


class Reports:
    """What a shadow reports, and whether it gets Redis's reply."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.numbers: list[int] = []
        self.replies = True

    async def __call__(self, number: int, counts: Counter[str]) -> bool:
        if number not in self.numbers:
            self.sums += counts
        self.numbers.append(number)
        return self.replies


def shadow_of(hub: FakeHub, reports: Reports) -> Shadow:
    hub.lane = "bulk"
    candidate = cast(Served, SimpleNamespace(hub=hub, title="stub"))
    return Shadow(candidate, Candidate(1, 1.0, shadow=True), Metrics(10.0), reports)


def offer(shadow: Shadow, *texts: str, found: LookupResult | None = None) -> LookupResult:
    if found is None:
        found = LookupResult({text: prediction(text) for text in texts}, set(texts))
        found.ids = {text: entry_id(text) for text in texts}
    shadow.offer(LookupRequest(texts, [None for _ in texts], "r", "web", 0.0, ""), found)
    return found


async def until(reports: Reports, shadow: Shadow, name: str, count: int) -> None:
    async def counted() -> bool:
        return (reports.sums + shadow._counts)[name] >= count

    await until_async(counted, f"{count} {name}")


async def test_requests_that_waited_for_the_same_computation_count_it_once() -> None:
    reports = Reports()
    shadow = shadow_of(FakeHub(), reports)
    found = offer(shadow, "a", "b")
    offer(shadow, found=found)
    await until(reports, shadow, "texts", 2)
    await shadow.stop()
    assert (reports.sums["texts"], reports.sums["agree"], reports.sums["dropped"]) == (2, 2, 0)


async def test_what_the_candidate_refuses_or_fails_on_only_counts() -> None:
    reports, hub = Reports(), FakeHub(refusal=QueueFull("full"), refuses=1)
    shadow = shadow_of(hub, reports)
    offer(shadow, "a", "b", "c")
    await until(reports, shadow, "dropped", 3)
    hub.answer = lambda text: EntryFailed("no") if text == "d" else prediction(text)
    offer(shadow, "d", "e")
    await until(reports, shadow, "failed", 1)
    await until(reports, shadow, "texts", 1)
    await shadow.stop()
    assert (reports.sums["dropped"], reports.sums["failed"], reports.sums["texts"]) == (3, 1, 1)


async def test_a_full_process_drops_texts_and_a_stop_drops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.models.shadow.MOST_CHARS", 40)
    reports, hub = Reports(), FakeHub(gate=asyncio.Event())
    shadow = shadow_of(hub, reports)
    offer(shadow, *(f"t{number:03}" for number in range(25)))  # ten of them have room
    assert shadow._counts["dropped"] == 15

    async def asked() -> bool:
        return bool(hub.asked)

    await until_async(asked, "the first texts to be asked")
    await shadow.stop()
    assert reports.sums == {"dropped": 25}
    assert len(hub.asked) <= REQUESTS
    assert hub.cancelled == len(hub.asked)


async def test_a_report_that_fails_is_sent_again_under_its_number() -> None:
    reports = Reports()
    shadow = shadow_of(FakeHub(), reports)
    reports.replies = False
    offer(shadow, "a")
    await until(reports, shadow, "texts", 1)
    await shadow._send()
    offer(shadow, "b")
    await until(reports, shadow, "texts", 2)
    reports.replies = True
    await shadow.stop()
    assert reports.sums["texts"] == 2
    assert reports.numbers.count(1) >= 2
