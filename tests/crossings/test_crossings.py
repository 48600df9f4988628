"""Crossings are the same for the same seed, see all pairs, and a few of them run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crossings.events import EARLY, EVENTS
from tests.crossings.planted import PLANTED
from tests.crossings.promises import PROMISES, documented
from tests.crossings.routes import ROUTES
from tests.crossings.run import fits
from tests.crossings.services import KINDS
from tests.crossings.session import Session
from tests.crossings.situations import Draw, Situation, shrunk
from tests.mutation.mutants import ROOT
from tests.servers import needs_server

# One of each kind of event, on services that start fast.
FEW = [
    "plain / predict, openai, oip, job ndjson, batch classify / Redis restarted / 1",
    "plain / huggingface, vllm, job csv, client, deferred / worker replaced / 2",
    "plain / kserve, tei, job file, job events, sglang / job deleted / 3",
    "several models / predict, oip classes, batch moderations, batch classify, job json / text forgotten / 4",
    "several models / kserve, openai, job file, predict best first, fms / namesake added / 5",
]


def draw(seed: int) -> Draw:
    return Draw([*KINDS], [*ROUTES], [*EVENTS], fits, seed, early=EARLY)


def test_guarantees_list_the_promises_that_are_checked() -> None:
    assert documented() == [*PROMISES]


def test_every_pair_that_can_meet_is_drawn() -> None:
    drawn = draw(1)
    count = 0
    while len(drawn.seen & drawn.possible) < 0.95 * len(drawn.possible):
        for situation in drawn.block():
            assert all(fits(*pair) for pair in situation.pairs())
            drawn.seen.update(situation.pairs())
            count += 1
    assert count < 400


def test_a_seed_draws_the_same_situations_and_another_seed_others() -> None:
    assert [*draw(1).block()] == [*draw(1).block()] != [*draw(2).block()]


def test_a_situation_is_read_as_it_is_printed_and_shrinks_to_what_matters() -> None:
    situation = Situation("share", ("oip", "predict", "job csv"), ("API killed", "none"), 7)
    assert Situation.parse(str(situation)) == situation

    def fails(one: Situation) -> bool:
        return "predict" in one.routes and "API killed" in one.events

    assert shrunk(situation, fails, fits) == Situation("plain", ("predict",), ("API killed",), 7)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda one: one.name)
def test_a_repair_can_still_be_taken_out(planted: object, tmp_path: Path) -> None:
    assert isinstance(planted, type(PLANTED[0]))
    assert planted.promises
    assert {*planted.promises} <= {*PROMISES}
    for edit in planted.edits:
        (tmp_path / edit.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / edit.file).write_text((ROOT / edit.file).read_text())
    planted.apply(tmp_path)


@pytest.mark.redis
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_few_situations_keep_every_promise() -> None:
    session = Session(needs_server(), 1, print, shrink=False)
    try:
        broken = [session.cross(Situation.parse(words)) for words in FEW]
    finally:
        session.close()
    assert broken == [[]] * len(FEW)
