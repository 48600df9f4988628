"""Texts that take longer than the budget of their request, by what workers have measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from api.asgi.http import Answer
from tests.unit.api.service import Start, assert_problem
from tests.unit.fakes import MODEL, RUNNING, FakeHub

# One second at 1,024 tokens, and four at 2,048: attention alone.
SLOW = replace(RUNNING, model=replace(MODEL, max_tokens=8192, long_s=((1024, 1.0), (2048, 4.0))))
# About 4,400 tokens: 19 s.
LONG = "word " * 3900


async def test_a_budget_was_spent_in_vain_on_a_text_that_takes_longer(start: Start) -> None:
    service = await start(FakeHub(snapshot=SLOW))
    refused = assert_problem(await service.predict("short", LONG), 413, "text_too_slow")
    assert "which take about" in str(refused["detail"])
    assert "the budget is 10 s" in str(refused["detail"])
    assert service.hub.asked == []
    assert (await service.predict(LONG, prefer="wait=15")).status_code == 413
    assert (await service.predict("word " * 2000)).status_code == 200
    assert (await service.predict(LONG, prefer="wait=60")).status_code == 200
    assert (await service.predict("short", f"{LONG}!")).status_code == 413
    assert (await service.predict("short")).status_code == 200


async def test_a_text_that_takes_longer_is_answered_if_it_is_known(start: Start) -> None:
    service = await start(FakeHub(snapshot=SLOW))
    service.cache.keep(LONG)
    assert (await service.predict(LONG)).status_code == 200
    assert (await service.client.post("/classify", json={"input": f"{LONG}!"})).status_code == 413


async def test_it_becomes_a_job_if_the_request_prefers_that(start: Start) -> None:
    taken: list[list[str]] = []

    async def deferral(headers: Any, texts: list[str]) -> Any:
        taken.append(texts)
        return Answer(202, [], b"{}")

    service = await start(FakeHub(snapshot=SLOW), deferral=deferral)
    assert (await service.predict(LONG, prefer="respond-async, wait=1")).status_code == 202
    assert taken == [[LONG]]
