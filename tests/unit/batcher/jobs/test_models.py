"""What a job asks of a model with a candidate, with fake queues."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from batcher.core.holds import Pause
from batcher.core.publications import Candidate, Publications, Published
from batcher.errors import NoWorker, Paused
from batcher.jobs.models import Connection, JobModels, OpenQueue, takes
from batcher.jobs.upload import account_of
from batcher.lookup.queue import LookupRequest, LookupResult
from batcher.messages import Outcome, entry_id
from batcher.publishing.shadow import ComparisonStore
from batcher.settings import JobSettings
from tests.conftest import FakeRedis
from tests.unit.fakes import REVISION, RUNNING, FakeCache, FakeHub, job_connection, prediction

Pair = tuple[str, int, int]
TEXTS = [f"text {number}" for number in range(40)]


def fakes(**facts: Any) -> tuple[FakeHub, FakeCache]:
    return FakeHub(lane="bulk", **facts), FakeCache()


def request(texts: list[str]) -> LookupRequest:
    return LookupRequest(texts, "client", time.perf_counter() + 1, lane="bulk")


def asked(hub: FakeHub) -> set[str]:
    return {text for call in hub.asked for text in call}


def test_the_account_of_a_client_chooses_as_its_name_does() -> None:
    setting = Candidate(1, 0.5, "client")
    clients = [f"192.0.2.{number}" for number in range(40)]
    chosen = [takes(setting, account_of(client))("any text", "") for client in clients]
    assert chosen == [setting.takes("", client) for client in clients]
    assert {True, False} == set(chosen)
    assert not takes(setting, "")("any text", "")


async def test_what_a_shadow_has_counted_is_reported_again_if_redis_did_not_answer(
    fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.jobs.models.connect_shards", lambda *_, **__: [fake_redis.sync])
    models, pair = JobModels(JobSettings(name="unit")), ("model", 1, 2)
    for connected in (False, True, True):
        fake_redis.server.connected = connected
        assert await models.report(pair, "shadow", 1, Counter(texts=3)) is connected
    assert ComparisonStore(fake_redis.sync, "unit").read(pair) == {"texts": 3}, "it counts once"
    await models.close()


async def test_each_text_is_asked_where_its_revision_is_and_only_if_no_cache_knows_it() -> None:
    setting = Candidate(1, 0.4)
    (current, cache), (candidate, other_cache) = fakes(), fakes()
    one, other = OpenQueue(current, cache), OpenQueue(candidate, other_cache)
    taken = [text for text in TEXTS if setting.takes(text, "")]
    rest = [text for text in TEXTS if text not in taken]
    cache.keep(rest[0])
    other_cache.keep(taken[0])
    connection = job_connection({"": one, "@1": other}, JobSettings(), candidate=setting)
    await connection.start(1.0)
    found = LookupResult()
    await connection.lookup.find(request(TEXTS), found)
    assert [found.by_text[text] for text in TEXTS] == [*map(prediction, TEXTS)]
    assert (asked(current), asked(candidate)) == ({*rest[1:]}, {*taken[1:]})
    await connection.stop()
    assert (one.users, other.users) == (0, 0)


async def test_a_candidate_that_refuses_its_texts_makes_the_job_try_again() -> None:
    (current, cache), (candidate, other_cache) = fakes(), fakes(refusal=NoWorker("none"), refuses=1)
    current.gate = asyncio.Event()
    opened = {"": OpenQueue(current, cache), "@1": OpenQueue(candidate, other_cache)}
    lookup = job_connection(opened, JobSettings(), candidate=Candidate(1, 0.5)).lookup
    with pytest.raises(NoWorker):
        await lookup.find(request(TEXTS), LookupResult())
    assert (current.in_flight, current.cancelled) == (0, 1)
    current.gate.set()
    found = LookupResult()
    await lookup.find(request(TEXTS), found)
    assert len(found.by_text) == len(TEXTS)
    assert len(candidate.asked) == 2


@pytest.mark.parametrize(
    ("hurries", "answers", "compared"), [(False, True, 40), (True, False, 0), (False, False, 0)]
)
async def test_the_end_of_a_job_waits_for_its_shadow_for_a_while_unless_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, hurries: bool, answers: bool, compared: int
) -> None:
    monkeypatch.setattr("batcher.jobs.models.DRAIN_S", 60.0 if answers or hurries else 0.1)
    sums: Counter[str] = Counter()

    async def report(pair: Pair, shadow: str, number: int, counts: Counter[str]) -> bool:
        assert pair == ("", 0, 1)
        sums.update(counts)
        return True

    (current, cache), (candidate, other_cache) = fakes(), fakes()
    cache.held[REVISION, entry_id("known")] = prediction("known")._replace(cached=True)
    candidate.gate = asyncio.Event()
    connection = job_connection(
        {"": OpenQueue(current, cache), "@1": OpenQueue(candidate, other_cache)},
        JobSettings(),
        candidate=Candidate(1, 1.0, shadow=True),
        report=report,
        stop=lambda: hurries,
    )
    await connection.start(1.0)
    found = LookupResult()
    await connection.lookup.find(request([*TEXTS, "known"]), found)
    assert len(found.by_text) == 41
    ending = asyncio.create_task(connection.stop())
    await asyncio.sleep(0)
    if answers:
        candidate.gate.set()
    async with asyncio.timeout(3):
        await ending
    assert (sums["texts"], sums["dropped"]) == (compared, 40 - compared)


ZERO = Publications()
ONE = Publications(models={"": Published(1, 0, 1, {1: "one"})})
SHARED = Publications(candidates={"": Candidate(1, 0.5)})


@pytest.mark.parametrize(
    ("before", "now", "moved", "stops"),
    [
        (ZERO, ZERO, False, False),
        (ONE, ONE, False, False),
        (SHARED, SHARED, False, False),
        (ZERO, ONE, True, False),  # that of the settings is served for good
        (ONE, Publications(models={"": Published(0, 1, 1, {1: "one"})}), True, False),
        (ONE, Publications(models={"": Published(2, 2, 2, {2: "two"})}), True, True),
        (ONE, Publications(models={"other": Published(1, 0, 1, {1: "one"})}), True, True),
        (ZERO, SHARED, True, True),
        (SHARED, ZERO, True, True),
        (SHARED, Publications(candidates={"": Candidate(1, 0.6)}), True, True),
        (SHARED, Publications(candidates={"": Candidate(2, 0.5)}), True, True),
        (ZERO, Publications(candidates={"other": Candidate(1, 0.5)}), False, False),
    ],
)
async def test_an_attempt_ends_if_what_it_asks_is_served_no_more(
    before: Publications, now: Publications, moved: bool, stops: bool
) -> None:
    models: Any = SimpleNamespace(
        settings=JobSettings(),
        publications=before,
        queues=SimpleNamespace(get=lambda name: OpenQueue(*fakes())),
    )
    stop: list[bool] = []
    connection = Connection(models, "", "", lambda: bool(stop))
    models.publications = now
    assert (connection.moved, connection.should_stop()) == (moved, stops)
    stop.append(True)
    assert connection.should_stop()


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, None),
        ({"reachable": False, "snapshot": replace(RUNNING, workers=0)}, None),
        ({"snapshot": replace(RUNNING, workers=0)}, NoWorker),
        ({"snapshot": replace(RUNNING, pauses={"bulk": Pause("keep", math.inf)})}, Paused),
        ({"snapshot": replace(RUNNING, pauses={"bulk": Pause("keep", 0.0)})}, None),
        ({"snapshot": replace(RUNNING, pauses={"interactive": Pause("keep", math.inf)})}, None),
    ],
    ids=["answers", "away", "no worker", "paused", "paused before", "requests are paused"],
)
async def test_a_job_is_blocked_if_one_of_its_models_cannot_answer(facts: Any, why: type | None) -> None:
    one, other = OpenQueue(*fakes()), OpenQueue(*fakes(**facts))
    for opened in ({"": one, "@1": other}, {"": other, "@1": one}):
        connection = job_connection(opened, JobSettings(), candidate=Candidate(1, 0.5))
        assert type(connection.blocked) is (why or type(None))
    shadowed = job_connection({"": one, "@1": other}, JobSettings(), candidate=Candidate(1, 0.5, shadow=True))
    assert shadowed.blocked is None, "a shadow holds no job up"


async def test_texts_of_jobs_go_after_others_and_their_results_to_the_shared_cache_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub, cache = fakes()
    classify, first = hub.classify, list[bool]()

    async def recorded(*given: Any, **more: Any) -> list[Outcome]:
        first.append(more["first"])
        return await classify(*given, **more)

    monkeypatch.setattr(hub, "classify", recorded)
    connection = job_connection({"": OpenQueue(hub, cache)}, JobSettings())
    for _ in range(2):
        await connection.lookup.find(request(["a"]), LookupResult())
    assert (hub.asked, first) == ([["a"], ["a"]], [False, False])
