"""A shadow between what was computed and the candidate's queue."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from batcher.errors import EntryFailed, QueueFull
from batcher.messages import Prediction, entry_id
from batcher.publishing.shadow import REQUESTS, Shadow
from tests.many import until_async
from tests.unit.fakes import FakeHub, prediction


class Reports:
    """What a shadow reports, and whether it gets Redis's reply."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.numbers: list[int] = []
        self.replies = True

    async def __call__(
        self, pair: tuple[str, int, int], shadow: str, number: int, counts: Counter[str]
    ) -> bool:
        if number not in self.numbers:
            self.sums += counts
        self.numbers.append(number)
        return self.replies


def shadow_of(hub: FakeHub, reports: Reports) -> Shadow:
    hub.lane = "bulk"
    return Shadow(hub, reports, ("", 0, 1))


def offer(shadow: Shadow, *texts: str) -> dict[str, Prediction]:
    """Offers texts and what was computed for them, which is returned."""
    answers = {text: prediction(text) for text in texts}
    for text, answer in answers.items():
        shadow.offer(entry_id(text), text, answer)
    return answers


async def until(reports: Reports, shadow: Shadow, name: str, count: int) -> None:
    async def counted() -> bool:
        return (reports.sums + shadow._counts)[name] >= count

    await until_async(counted, f"{count} {name}")


async def test_it_says_which_texts_it_has_yet_to_compare() -> None:
    """They go to the candidate's queue after they were answered, and forgotten perhaps."""
    hub, reports = FakeHub(gate=asyncio.Event(), tenant="key:web"), Reports()
    shadow = shadow_of(hub, reports)
    shadow.offer(entry_id("a", "key:web"), "a", prediction("a"))
    assert [shadow.holds(entry_id(text)) for text in "ab"] == [True, False]
    await until_async(lambda: asyncio.sleep(0, bool(hub.asked)), "the queue")
    assert shadow.holds(entry_id("a"))
    hub.gate.set()  # type: ignore[union-attr]
    await until(reports, shadow, "texts", 1)
    await until_async(lambda: asyncio.sleep(0, shadow.idle), "the end")
    assert not shadow.holds(entry_id("a"))
    await shadow.stop()


async def test_requests_that_waited_for_the_same_computation_count_it_once() -> None:
    reports = Reports()
    shadow = shadow_of(FakeHub(), reports)
    for text, answer in offer(shadow, "a", "b").items():
        shadow.offer(entry_id(text), text, answer)
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
    monkeypatch.setattr("batcher.publishing.shadow.MAX_CHARS", 40)
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


async def test_it_is_idle_once_all_that_it_took_is_compared() -> None:
    reports, hub = Reports(), FakeHub(gate=asyncio.Event())
    shadow = shadow_of(hub, reports)
    assert shadow.idle
    offer(shadow, *(f"t{number}" for number in range(200)))
    assert not shadow.idle
    assert hub.gate is not None
    hub.gate.set()
    await until(reports, shadow, "texts", 200)
    assert shadow.idle
    await shadow.stop()
