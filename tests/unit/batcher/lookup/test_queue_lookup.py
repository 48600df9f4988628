"""What one lookup in a queue and its caches costs, asks and gives up, by a clock that the test sets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from batcher.errors import RevisionsMixed, TextTooSlow
from batcher.lookup.queue import LocalCache, LookupRequest, LookupResult, QueueLookup
from batcher.messages import Prediction
from tests.unit.fakes import MODEL, OTHER_REVISION, REVISION, RUNNING, FakeCache, FakeHub, prediction

START_S = 100.0


class Bench(FakeCache):
    """A lookup whose shared cache takes a quarter of a second."""

    def __init__(self, hub: FakeHub, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        held = {"hold": lambda *_: False, "release": lambda *_: None}
        limits: Any = SimpleNamespace(accepts=lambda *_: True, **held)
        self.lookup = QueueLookup(hub, self, LocalCache(100, 100_000), limits, 60.0, False)

    async def get(self, revision: str, ids: Any) -> list[Prediction | None]:
        self.clock[0] += 0.25
        return await super().get(revision, ids)

    async def find(self, *texts: str, budget_s: float = 10.0, one_revision: bool = True) -> LookupResult:
        answer = LookupResult()
        deadline = self.clock[0] + budget_s
        await self.lookup.find(LookupRequest(texts, "client", deadline, one_revision=one_revision), answer)
        return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [START_S]
    monkeypatch.setattr("batcher.lookup.queue.perf_counter", lambda: now[0])
    return now


def hub_of(*revisions: str) -> FakeHub:
    """Each text is answered by the next revision, and all later ones by the last."""
    left = list(revisions)
    return FakeHub(answer=lambda text: prediction(text, left.pop(0) if len(left) > 1 else left[0]))


async def test_all_rounds_of_an_answer_of_one_revision_are_added_up(clock: list[float]) -> None:
    hub = hub_of(REVISION, OTHER_REVISION, REVISION)
    bench = Bench(hub, clock)
    bench.keep("known")
    answer = await bench.find("a", "b", "c", "known")
    assert hub.asked == [["a", "b", "c"], ["b"]]
    wanted = {text: prediction(text) for text in ("a", "b", "c", "known")}
    assert answer.by_text == wanted
    assert answer.computed == {text: wanted[text] for text in "abc"}
    assert answer.outcomes == {"hit_shared": 1, "computed": 4}
    assert (answer.asked, answer.asked_at, answer.cache_s) == (4, START_S + 0.25, 0.5)


async def test_a_revision_that_no_worker_has_is_asked_for_less_and_less_often(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [REVISION] * 6 + [OTHER_REVISION]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(round(seconds, 3))

    fakes = SimpleNamespace(sleep=sleep, CancelledError=asyncio.CancelledError)
    monkeypatch.setattr("batcher.lookup.queue.asyncio", fakes)
    choice = SimpleNamespace(choice=lambda revisions: chosen.pop(0))
    monkeypatch.setattr("batcher.lookup.queue.random", choice)
    hub = hub_of(REVISION, REVISION, OTHER_REVISION)
    answer = await Bench(hub, clock).find("a", "b", "c")
    assert {result.revision for result in answer.by_text.values()} == {OTHER_REVISION}
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2]
    assert hub.asked == [["a", "b", "c"], *[["c"]] * 7, ["a", "b"]]


async def test_nothing_is_asked_again_once_the_budget_is_spent(clock: list[float]) -> None:
    revisions = [REVISION, OTHER_REVISION]

    def answered(text: str) -> Prediction:
        clock[0] = START_S + 10
        return prediction(text, revisions.pop())

    hub = FakeHub(answer=answered)
    bench = Bench(hub, clock)
    with pytest.raises(RevisionsMixed):
        await bench.find("a", "b")
    assert (len(bench.lookups), hub.asked) == (1, [["a", "b"]])


@pytest.mark.parametrize("budget_s", [4.25, 4.19])
async def test_a_text_may_take_the_whole_budget(clock: list[float], budget_s: float) -> None:
    """Of what the cache has left of it."""
    slow = replace(MODEL, max_tokens=2048, long_s=((1024, 1.0), (2048, 4.0)))
    hub = FakeHub(snapshot=replace(RUNNING, model=slow))
    finding = Bench(hub, clock).find("word " * 3000, budget_s=budget_s)
    if budget_s == 4.25:
        assert len((await finding).by_text) == 1
        return
    with pytest.raises(TextTooSlow) as refused:
        await finding
    assert str(refused.value) == (
        "a text of 15000 characters has about 2048 tokens, which take about 4 s, and the budget is 3.9 s: "
        "send a part of it, a longer Prefer: wait or a job"
    )


@pytest.mark.parametrize(("budget_s", "first"), [(0.1, True), (0.11, False)])
async def test_a_queue_that_knows_the_cache_is_asked_alone_unless_time_is_short(
    clock: list[float], budget_s: float, first: bool
) -> None:
    clock[0] = 0.0
    hub = FakeHub(looks=True)
    bench = Bench(hub, clock)
    bench.keep("a")
    await bench.find("a", budget_s=budget_s)
    assert (bool(bench.lookups), hub.asked) == (first, [] if first else [["a"]])
