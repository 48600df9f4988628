"""Shares, shadows and cascades, each of lookups that have a fake queue."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from batcher.cascades import Cascade
from batcher.errors import EntryFailed, LabelsDiffer, QueueFull
from batcher.lookup.cascade import CascadeLookup, combined
from batcher.lookup.queue import LocalCache, LookupRequest, LookupResult, QueueLookup
from batcher.lookup.share import ShadowedLookup, ShareLookup
from batcher.messages import Outcome, Prediction, fragment
from tests.unit.fakes import MODEL, OTHER_REVISION, RUNNING, FakeCache, FakeHub, prediction


class NoLimits:
    """Accepts all texts."""

    def accepts(self, client: str, texts: int) -> bool:
        return True

    def hold(self, client: str, texts: int) -> bool:
        return False

    def release(self, client: str, texts: int) -> None:
        return


def other(text: str) -> Prediction:
    """A result of the second model."""
    return prediction(text, OTHER_REVISION)


def failing(text: str) -> Outcome:
    return EntryFailed("the model failed") if text == "bad" else prediction(text)


class Two:
    """Two models with one in-process cache."""

    def __init__(self) -> None:
        self.local = LocalCache(100, 100_000)
        published = replace(RUNNING, model=replace(MODEL, revision=OTHER_REVISION, name="other"))
        self.hubs = FakeHub(), FakeHub(snapshot=published, answer=other)
        self.first, self.second = (
            QueueLookup(hub, FakeCache(), self.local, NoLimits(), 60.0, False) for hub in self.hubs
        )

    @property
    def asked(self) -> list[list[list[str]]]:
        return [hub.asked for hub in self.hubs]


@pytest.fixture
def two() -> Two:
    return Two()


def request(*texts: str, one_revision: bool = False) -> LookupRequest:
    return LookupRequest(texts, "client", time.perf_counter() + 5, one_revision=one_revision)


def taken(text: str, client: str) -> bool:
    return text.startswith("new")


async def test_a_share_knows_what_both_know(two: Two) -> None:
    share = ShareLookup(two.first, two.second, taken)
    wanted = request("old 1", "new 1", "old 2")
    assert share.known(wanted.texts, "client", "", False) is None
    found = LookupResult()
    await share.find(wanted, found)
    assert two.asked == [[["old 1", "old 2"]], [["new 1"]]]
    known = share.known(wanted.texts, "client", "", False)
    assert known is not None
    assert [one.fragment for one in known] == [found.by_text[text].fragment for text in wanted.texts]
    assert share.models.record(OTHER_REVISION) is not None
    assert share.models.header(OTHER_REVISION) == b"other@ffeeddccbbaa"


async def test_all_results_of_a_share_can_be_of_the_revision_of_the_first_text(two: Two) -> None:
    share = ShareLookup(two.first, two.second, taken)
    await share.find(request("new 1", "old 1", one_revision=True), LookupResult())
    assert two.asked == [[], [["new 1", "old 1"]]]


async def test_a_text_that_fails_does_not_lose_the_others(two: Two) -> None:
    two.hubs[0].answer = failing
    share = ShareLookup(two.first, two.second, taken)
    found = LookupResult()
    await share.find(request("bad", "old 1", "new 1"), found)
    assert (list(found.failed), sorted(found.by_text)) == (["bad"], ["new 1", "old 1"])
    assert found.outcomes == {EntryFailed: 1, "computed": 2}


async def test_only_what_was_computed_is_offered_to_a_shadow(two: Two) -> None:
    offered: list[str] = []
    lookup = ShadowedLookup(two.first, lambda entry, text, result: offered.append(text), taken)
    for _ in range(2):
        await lookup.find(request("new 1", "old 1"), LookupResult())
    assert offered == ["new 1"]
    assert lookup.known(["new 1"], "client", "", False) is not None


SETTING = Cascade("quick", "stub", "other", 0.6)


def cascade(two: Two, threshold: float) -> CascadeLookup:
    setting = replace(SETTING, threshold=threshold)
    return CascadeLookup(setting, lambda: (two.first, two.second), two.first.models)


async def test_hits_of_the_in_process_cache_are_counted_alike_in_a_queue_and_a_cascade(two: Two) -> None:
    await two.first.find(request("known"), LookupResult())
    for lookup in (two.first, cascade(two, 0.01)):
        found = LookupResult()
        await lookup.find(request("known", "known", f"unknown of {lookup}"), found)
        assert found.outcomes == {"hit_local": 2, "computed": 1}


async def test_a_cascade_answers_while_nothing_is_known_of_the_model_that_it_does_not_need(two: Two) -> None:
    two.hubs[1].snapshot = replace(two.hubs[1].snapshot, model=None)
    found = LookupResult()
    await cascade(two, 0.01).find(request("a"), found)
    assert (len(found.by_text), found.cascade) == (1, None)


async def test_a_cascade_puts_labels_in_the_order_of_the_first_model(two: Two) -> None:
    two.hubs[1].answer = lambda text: other(text)._replace(fragment=fragment(MODEL.labels[::-1], [0.9, 0.1]))
    found = LookupResult()
    await cascade(two, 1.0).find(request("a"), found)
    assert found.by_text["a"].fragment == fragment(MODEL.labels, [0.1, 0.9])


async def test_a_cached_result_of_a_cascade_says_that_its_text_was_cut(two: Two) -> None:
    cut = other("a")._replace(fragment=fragment(MODEL.labels[::-1], [0.9, 0.1]), truncated=7)
    two.hubs[1].answer = lambda text: cut
    for _ in range(2):
        found = LookupResult()
        await cascade(two, 1.0).find(request("a"), found)
        assert found.by_text["a"].truncated == 7
    assert two.asked[1] == [["a"]], "the second time, it was cached"


async def test_the_revision_of_a_cascade_is_that_of_the_revisions_that_answered(two: Two) -> None:
    """It was that of the revisions which workers published last."""
    lookup, records = cascade(two, 0.6), [hub.snapshot.model for hub in two.hubs]
    fast, sure = (record for record in records if record is not None)

    async def named(sent: LookupRequest) -> str:
        found = LookupResult()
        await lookup.find(sent, found)
        assert found.cascade is not None
        return found.cascade.revision

    new = replace(fast, revision="f" * 64)

    def moving(text: str) -> Prediction:
        two.hubs[0].snapshot = replace(RUNNING, model=new)
        return prediction(text)._replace(fragment=fragment(MODEL.labels, [0.1, 0.9]))

    two.hubs[0].answer = moving
    assert await named(request("moves meanwhile")) == combined(SETTING, fast, sure).revision
    two.hubs[0].answer = lambda text: prediction(text, new.revision)
    assert await named(request("moved")) == combined(SETTING, new, sure).revision
    unseen = "e" * 64
    two.hubs[1].answer = lambda text: prediction(text, unseen)
    texts = [f"text {number}" for number in range(9)]
    expected = combined(SETTING, new, replace(sure, revision=unseen))
    assert await named(request(*texts)) == expected.revision


@pytest.mark.parametrize("published", [True, False])
async def test_a_cascade_refuses_texts_that_its_second_model_has_other_labels_for(
    two: Two, published: bool
) -> None:
    two.hubs[1].answer = lambda text: other(text)._replace(fragment=fragment(["HAM", "SPAM"], [0.9, 0.1]))
    if published:
        two.hubs[1].snapshot = replace(RUNNING, model=replace(MODEL, labels=("HAM", "SPAM")))
    with pytest.raises(LabelsDiffer):
        await cascade(two, 1.0).find(request("a"), LookupResult())
    assert two.asked[0] == [["a"]] * (not published)


async def test_what_was_found_before_a_refusal_is_noted(two: Two) -> None:
    two.hubs[1].refusal = QueueFull("the lane is full")
    found = LookupResult()
    with pytest.raises(QueueFull):
        await cascade(two, 1.0).find(request("a", "b"), found)
    assert found.outcomes == {"computed": 2, QueueFull: 2}
    assert found.asked == 4


class Slow:
    """A lookup that spends so many more seconds on caches."""

    def __init__(self, lookup: QueueLookup, seconds: float) -> None:
        self.models, self._lookup, self._seconds = lookup.models, lookup, seconds

    async def find(self, wanted: LookupRequest, answer: LookupResult) -> None:
        await self._lookup.find(wanted, answer)
        answer.cache_s += self._seconds


async def test_a_cascade_reports_the_time_on_the_caches_of_both_models(two: Two) -> None:
    slow: Any = Slow(two.first, 10.0), Slow(two.second, 5.0)
    found = LookupResult()
    await CascadeLookup(Cascade("quick", "stub", "other", 1.0), lambda: slow, two.first.models).find(
        request("a"), found
    )
    assert found.cache_s == pytest.approx(15.0, abs=1.0)
