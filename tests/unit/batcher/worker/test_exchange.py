"""The exchange with one shard and with several: results and leases through outages."""

from __future__ import annotations

from typing import Any

import pytest

from batcher.core.commands import Claim, Claimed
from batcher.messages import Prediction, Result, entry_id
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts, CostModel
from batcher.worker.exchange import AWAY_S, NOTHING, PATIENCE_S, Exchange, ShardExchange
from tests.fakes import LOST, FakeClock, FakeEvent, FakeQueue, Pace, fake_host

TEXTS = ["x", "y"]
RESULTS: list[Result] = [(entry_id(text), Prediction(b"[]", "rev", 1)) for text in TEXTS]

NOTHING_HELD = ClaimedTexts("packed")


class Made:
    """An exchange that has claimed TEXTS."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue = FakeQueue(TEXTS)
        self.stopping = FakeEvent(self.clock)
        self.exchange = ShardExchange(
            self.queue.queues, WorkerSettings(), "packed", set(), self.stopping, fake_host(self.clock)
        )
        claim = self.exchange.claim(self.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256))
        assert [entry.text for entry in claim.entries] == TEXTS
        assert self.exchange.leases == self.queue.leased


@pytest.mark.parametrize("kind", ["refused", "lost"])
def test_results_are_sent_again_until_redis_answers(kind: str) -> None:
    made = Made()
    made.queue.errors = [(kind, LOST)] * 5
    assert made.exchange.send(RESULTS)
    assert sorted(made.queue.completed) == sorted(entry for entry, _ in RESULTS), "each once"
    assert made.exchange.leases == set()
    assert made.exchange.outage.count == 1
    assert made.exchange.outage.over


def test_sending_ends_when_patience_does_and_gives_up_the_leases() -> None:
    made = Made()
    made.queue.errors = [("refused", LOST)] * 10_000
    began = made.clock.time
    assert not made.exchange.send(RESULTS)
    assert PATIENCE_S <= made.clock.time - began < 2 * PATIENCE_S
    assert made.exchange.leases == set()
    assert not made.exchange.outage.over


def test_a_stopping_worker_tries_once() -> None:
    made = Made()
    made.stopping.set()
    made.queue.errors = [("refused", LOST)] * 2
    assert not made.exchange.send(RESULTS)
    assert len(made.queue.errors) == 1
    assert made.exchange.leases == set()


def test_finding_10_no_lease_is_kept_after_an_error_that_was_not_foreseen() -> None:
    """The leases were kept for ever: other workers never got these texts."""
    made = Made()
    made.queue.errors = [("refused", ZeroDivisionError())]
    with pytest.raises(ZeroDivisionError):
        made.exchange.send(RESULTS)
    assert made.exchange.leases == set()


@pytest.mark.parametrize("errors", [[None], [("refused", LOST)], [("lost", LOST)], [None, ("lost", LOST)]])
def test_sending_and_waiting_in_one_write_completes_each_result_once(errors: list[Any]) -> None:
    made = Made()
    made.queue.errors = errors
    command = made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256, waits=True)
    sent: list[bool] = []
    made.exchange.send_and_wait(RESULTS, command, sent.append)
    assert sent == [True]
    assert sorted(made.queue.completed) == sorted(entry for entry, _ in RESULTS)
    assert made.exchange.leases == set()
    assert made.queue.log.count("complete 2") <= 2 - (len(errors) > 1), "not again for a wait that was lost"


def test_a_server_that_was_lost_with_results_may_not_know_the_script_of_a_claim_that_waits() -> None:
    made = Made()
    assert made.exchange.send(RESULTS)
    assert made.exchange.knows_script
    made.stopping.set()
    made.queue.errors = [("refused", LOST)] * 2
    command = made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256, waits=True)
    made.exchange.send_and_wait(RESULTS, command, lambda sent: None)
    assert not made.exchange.knows_script


@pytest.mark.parametrize("error", [None, ("refused", LOST), ("lost", LOST)])
def test_sending_and_claiming_in_one_round_trip_completes_each_result_once(error: object) -> None:
    made = Made()
    made.queue.errors = [error]  # type: ignore[list-item]
    sent, _ = made.exchange.swap(RESULTS, made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256))
    assert sent
    assert sorted(made.queue.completed) == sorted(entry for entry, _ in RESULTS)
    assert made.exchange.leases == set()


def test_after_a_failed_claim_the_worker_asks_before_it_waits() -> None:
    made = Made()
    command = made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256)
    made.exchange.claim(command)
    assert made.exchange.idle
    made.queue.errors = [("lost", LOST)]
    assert made.exchange.claim(command).entries == []
    assert not made.exchange.idle, "Redis may no longer know that this worker is idle"
    made.exchange.claim(command)
    assert made.exchange.idle


def test_a_worker_that_waited_in_vain_claims_before_it_waits_again() -> None:
    made = Made()
    assert made.exchange.send(RESULTS, idle=True)
    made.exchange.wait(0.01, made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256))
    assert not made.exchange.idle


def test_a_worker_is_idle_once_its_last_results_are_sent() -> None:
    made = Made()
    assert not made.exchange.idle
    assert made.exchange.send(RESULTS, idle=True)
    assert made.exchange.idle
    made.exchange.wait(0.0, made.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256, waits=True))


def test_released_entries_are_no_longer_leased() -> None:
    made = Made()
    made.exchange.release([entry_id("x")])
    assert made.exchange.leases == made.queue.leased == {entry_id("y")}
    assert made.queue.waiting == [entry_id("x")]


class Known:
    """A worker that any shard but the `lost` ones may know."""

    def __init__(self) -> None:
        self.leases = {0: set[str](), 1: set[str]()}
        self.home_reachable = True
        self.lost: set[int] = set()

    def visit(self, number: int, moved: bool) -> None:
        if number in self.lost:
            raise LOST

    def leave(self, number: int) -> None: ...


class TwoShards:
    """The exchange with two shards. The worker lives at the first."""

    def __init__(self, pace: Pace = "early") -> None:
        self.clock, self.home, self.other = FakeClock(), FakeQueue(["at home"]), FakeQueue(["elsewhere"])
        queues = self.home.queues._replace(others=(self.other.queues._replace(number=1),))
        stopping, host = FakeEvent(self.clock), fake_host(self.clock, pace)
        self.known = Known()
        self.exchange = Exchange(queues, WorkerSettings(), "packed", self.known, stopping, host)

    def command(self, *, waits: bool = False) -> Claim:
        return self.exchange.claim_command(NOTHING_HELD, CostModel.start(), 256, waits=waits)

    def claimed(self) -> list[str]:
        return [entry.id for entry in self.exchange.claim(self.command()).entries]


def test_a_worker_that_moves_claims_before_it_waits_there() -> None:
    """The shard does not know that it is idle, so it would not be woken for what waits. So at home later."""
    made = TwoShards()
    made.home.errors = [("refused", LOST)]
    assert made.claimed() == []
    assert not made.exchange.here.idle
    assert made.claimed() == [entry_id("elsewhere")]
    assert made.claimed() == []
    assert made.exchange.here.idle
    made.clock.time += AWAY_S
    assert made.exchange.wait(0.0, made.command(waits=True)) == NOTHING
    assert not made.exchange.here.idle
    assert made.claimed() == [entry_id("at home")]


@pytest.mark.parametrize(
    ("away_s", "reachable", "text"),
    [(AWAY_S, True, "at home"), (0.0, True, "elsewhere"), (9 * AWAY_S, False, "elsewhere")],
)
def test_a_busy_worker_returns_home_when_it_claims(away_s: float, reachable: bool, text: str) -> None:
    """It never waits."""
    made = TwoShards()
    made.home.errors = [("refused", LOST)]
    assert made.claimed() == []
    made.clock.time += away_s
    made.known.home_reachable = reachable
    assert made.claimed() == [entry_id(text)]


def test_a_shard_at_which_a_worker_cannot_be_known_counts_as_lost() -> None:
    made = TwoShards()
    made.home.errors = [("refused", LOST)]
    made.known.lost = {1}
    assert made.claimed() == []
    assert not made.exchange.parts[1].outage.over
    assert made.claimed() == [entry_id("at home")], "it stays where it is known"


def test_results_were_sent_to_another_shard_if_that_of_their_entries_was_lost_as_they_were_claimed() -> None:
    """The other thread, which sends results, noticed it first. The leases were then renewed for ever."""
    made = TwoShards()
    home = made.exchange.here
    claim = home.claim

    def claim_and_lose(command: Claim) -> Claimed:
        claimed = claim(command)
        home.outage.lost(LOST)
        return claimed

    home.claim = claim_and_lose  # type: ignore[method-assign]
    (entry,) = made.exchange.claim(made.command()).entries
    home.outage.found()
    made.exchange.send([(entry.id, Prediction(b"[]", "rev", 1))])
    assert (made.home.completed, made.other.completed) == ([entry.id], [])
    assert made.known.leases[0] == set()


def test_the_outages_of_a_worker_fell_while_it_was_at_another_shard() -> None:
    """A counter that falls looks like a restart."""
    made = TwoShards()
    seen = []
    for lost in (made.home, made.other):
        lost.errors = [("refused", LOST)]
        made.claimed()
        seen.append(sum(part.outage.count for part in made.exchange.parts.values()))
    assert seen == [1, 2]


def test_a_worker_does_not_end_before_its_other_threads_have_sent_their_results() -> None:
    """They opened connections again after those of the worker had been closed."""
    made = TwoShards("late")
    (entry,) = made.exchange.claim(made.command()).entries
    made.exchange.parts[0].outage.lost(LOST)
    assert not made.exchange.send([(entry.id, Prediction(b"[]", "rev", 1))])
    assert made.home.completed == []
    made.exchange.finish()
    assert made.home.completed == [entry.id]
    assert not made.home._idle, "it may be busy by now"


@pytest.mark.parametrize("idle", [False, True])
def test_a_worker_is_idle_only_where_it_lives_and_only_if_it_has_nothing_to_do(idle: bool) -> None:
    made = TwoShards()
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
def test_results_are_cached_by_sending_only_if_every_shard_does(at_home: bool, elsewhere: bool) -> None:
    made = TwoShards()
    made.home.remembers, made.other.remembers = at_home, elsewhere
    assert made.exchange.remembers == (at_home and elsewhere)


def test_a_queue_of_one_shard_is_asked_for_nothing_but_its_own_entries() -> None:
    clock, queue, known = FakeClock(), FakeQueue(["x"]), Known()
    exchange = Exchange(queue.queues, WorkerSettings(), "packed", known, FakeEvent(clock), fake_host(clock))
    command = exchange.claim_command(NOTHING_HELD, CostModel.start(), 256)
    assert command.helped == "", "no note of another shard is wanted"
    queue.errors = [("refused", LOST)]
    began = clock.time
    assert exchange.claim(command) == NOTHING
    assert clock.time > began, "it pauses, and stays"
    assert [entry.id for entry in exchange.claim(command).entries] == [entry_id("x")]
    assert exchange.send([(entry_id("x"), Prediction(b"[]", "rev", 1))])
    assert queue.completed == [entry_id("x")]
