"""A model with a candidate, as a job asks it, with fake queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from batcher.core.revisions import Candidate
from batcher.errors import NoWorker
from batcher.jobs.candidate import DividedHub, ShadowedHub, takes
from batcher.jobs.members import Member
from batcher.jobs.upload import account_of
from batcher.messages import entry_id
from tests.unit.fakes import REVISION, FakeCache, FakeHub, prediction

TEXTS = [f"text {number}" for number in range(40)]
IDS = [*map(entry_id, TEXTS)]


def member(**facts: Any) -> tuple[Member, FakeHub, FakeCache]:
    hub, cache = FakeHub(lane="bulk", **facts), FakeCache()
    return Member(hub, cache), hub, cache


def asked(hub: FakeHub) -> set[str]:
    return {text for call in hub.asked for text in call}


def test_the_account_of_a_client_chooses_as_its_name_does() -> None:
    setting = Candidate(1, 0.5, "client")
    clients = [f"192.0.2.{number}" for number in range(40)]
    chosen = [takes(setting, account_of(client))("any text") for client in clients]
    assert chosen == [setting.takes("", client) for client in clients]
    assert {True, False} == set(chosen)
    assert not takes(setting, "")("any text")


async def test_each_text_is_asked_where_its_revision_is_and_only_if_no_cache_knows_it() -> None:
    setting = Candidate(1, 0.4)
    (one, current, cache), (other, candidate, other_cache) = member(), member()
    taken = [text for text in TEXTS if setting.takes(text, "")]
    rest = [text for text in TEXTS if text not in taken]
    cache.keep(rest[0])
    other_cache.keep(taken[0])
    hub = DividedHub(one, other, takes(setting, ""))
    await hub.start()
    found = await hub.classify(IDS, TEXTS, budget_s=1.0)
    assert [one._replace(cached=False) for one in found] == [*map(prediction, TEXTS)]
    assert (asked(current), asked(candidate)) == ({*rest[1:]}, {*taken[1:]})
    await hub.stop()
    await hub.close()
    assert not current.running
    assert not candidate.running
    assert cache.closed
    assert other_cache.closed


async def test_a_candidate_that_refuses_its_texts_makes_the_job_try_again() -> None:
    (one, current, _), (other, candidate, _) = member(), member(refusal=NoWorker("none"), refuses=1)
    current.gate = asyncio.Event()
    hub = DividedHub(one, other, takes(Candidate(1, 0.5), ""))
    with pytest.raises(NoWorker):
        await hub.classify(IDS, TEXTS, budget_s=1.0)
    assert (current.in_flight, current.cancelled) == (0, 1)
    current.gate.set()
    assert len(await hub.classify(IDS, TEXTS, budget_s=1.0)) == len(TEXTS)
    assert len(candidate.asked) == 2


@pytest.mark.parametrize(
    ("hurries", "answers", "compared"), [(False, True, 40), (True, False, 0), (False, False, 0)]
)
async def test_the_end_of_a_job_waits_for_its_shadow_for_a_while_unless_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, hurries: bool, answers: bool, compared: int
) -> None:
    monkeypatch.setattr("batcher.jobs.candidate.DRAIN_S", 60.0 if answers or hurries else 0.1)
    sums: Counter[str] = Counter()

    async def report(number: int, counts: Counter[str]) -> bool:
        sums.update(counts)
        return True

    (one, _, cache), (other, candidate, _) = member(), member()
    cache.held[REVISION, entry_id("known")] = prediction("known")._replace(cached=True)
    candidate.gate = asyncio.Event()
    hub = ShadowedHub(one, other, takes(Candidate(1, 1.0, shadow=True), ""), report, lambda: hurries)
    await hub.start()
    found = await hub.classify([*IDS, entry_id("known")], [*TEXTS, "known"], budget_s=1.0)
    assert len(found) == 41
    ending = asyncio.create_task(hub.stop())
    await asyncio.sleep(0)
    if answers:
        candidate.gate.set()
    async with asyncio.timeout(3):
        await ending
    assert (sums["texts"], sums["dropped"]) == (compared, 40 - compared)
