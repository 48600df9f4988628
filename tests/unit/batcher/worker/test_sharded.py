"""The exchange with several shards: where a worker claims, and what it knows of each shard."""

from __future__ import annotations

import pytest

from batcher.core.commands import Claim
from batcher.messages import Failure, Prediction, entry_id
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts
from batcher.worker.exchange import NOTHING
from batcher.worker.inference import CostModel
from batcher.worker.sharded import AWAY_S, ShardedExchange, exchange_with
from tests.fakes import LOST, FakeClock, FakeEvent, FakeQueue, Pace, fake_host

NOTHING_HELD = ClaimedTexts("packed")


class Made:
    """The exchange with two shards. The worker lives at the first."""

    def __init__(self, pace: Pace = "early") -> None:
        self.clock, self.home, self.other = FakeClock(), FakeQueue(["at home"]), FakeQueue(["elsewhere"])
        self.remembered: list[tuple[str, Prediction]] = []
        queues = self.home.queues._replace(others=(self.other.queues._replace(number=1),))
        stopping, host = FakeEvent(self.clock), fake_host(self.clock, pace)
        exchange = exchange_with(queues, WorkerSettings(), "packed", self.remembered.extend, stopping, host)
        assert isinstance(exchange, ShardedExchange)
        exchange.visit = lambda number, moved: None
        exchange.leave = lambda number: None
        exchange.home_reachable = lambda: True
        self.exchange = exchange

    def command(self, *, waits: bool = False) -> Claim:
        return self.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256, waits=waits)

    def claimed(self) -> list[str]:
        return [entry.id for entry in self.exchange.claim(self.command()).entries]


def test_a_worker_that_moves_claims_before_it_waits_there() -> None:
    """The shard does not know that it is idle, so it would not be woken for what waits. So at home later."""
    made = Made()
    made.home.errors = [("refused", LOST)]
    assert made.claimed() == []
    assert not made.exchange.idle
    assert made.claimed() == [entry_id("elsewhere")]
    assert made.claimed() == []
    assert made.exchange.idle
    made.clock.time += AWAY_S
    assert made.exchange.wait(0.0, made.command(waits=True)) == NOTHING
    assert not made.exchange.idle
    assert made.claimed() == [entry_id("at home")]


def test_a_shard_at_which_a_worker_cannot_be_known_counts_as_lost() -> None:
    made = Made()
    made.home.errors = [("refused", LOST)]

    def visit(number: int, moved: bool) -> None:
        raise LOST

    made.exchange.visit = visit
    assert made.claimed() == []
    assert not made.exchange.parts[1].outage.over


def test_a_worker_does_not_end_before_its_other_threads_have_sent_their_results() -> None:
    """They opened connections again after those of the worker had been closed."""
    made = Made("late")
    (entry,) = made.exchange.claim(made.command()).entries
    made.exchange.parts[0].outage.lost(LOST)
    assert not made.exchange.send([(entry.id, Prediction(b"[]", "rev", 1))])
    assert made.home.completed == []
    made.exchange.finish()
    assert made.home.completed == [entry.id]


@pytest.mark.parametrize("idle", [False, True])
def test_a_worker_is_idle_only_where_it_lives_and_only_if_it_has_nothing_to_do(idle: bool) -> None:
    made = Made()
    (at_home,) = made.exchange.claim(made.command()).entries
    made.home.errors = [("refused", LOST)]
    made.claimed()
    (elsewhere,) = made.claimed()
    sent: list[tuple[str, bool]] = []
    for name, part in zip(("home", "other"), made.exchange.parts.values(), strict=True):
        part.send = lambda results, *, idle, name=name: sent.append((name, idle)) or True  # type: ignore
    prediction = Prediction(b"[]", "rev", 1)
    made.exchange.send([(at_home.id, prediction), (elsewhere, prediction)], idle=idle)
    assert sorted(sent) == [("home", False), ("other", idle)], "it lives at the other one by now"


@pytest.mark.parametrize(("at_home", "elsewhere"), [(True, True), (True, False), (False, False)])
def test_predictions_are_cached_separately_unless_every_shard_caches_them(
    at_home: bool, elsewhere: bool
) -> None:
    made = Made()
    made.home.remembers, made.other.remembers = at_home, elsewhere
    good = ("x", Prediction(b"[]", "rev", 1))
    made.exchange.remember([good, ("y", Failure("inference_failed", "no"))])
    assert made.remembered == ([] if at_home and elsewhere else [good])
