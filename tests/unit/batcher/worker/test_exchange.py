"""The exchange with Redis: results and leases through outages."""

from __future__ import annotations

import pytest

from batcher.messages import Prediction, Result, entry_id
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts
from batcher.worker.exchange import PATIENCE_S, Exchange
from batcher.worker.inference import CostModel
from tests.fakes import LOST, FakeClock, FakeEvent, FakeQueue

TEXTS = ["x", "y"]
RESULTS: list[Result] = [(entry_id(text), Prediction(b"[]", "rev", 1)) for text in TEXTS]

NOTHING_HELD = ClaimedTexts("packed")


class Made:
    """An exchange that has claimed TEXTS."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue = FakeQueue(TEXTS)
        self.stopping = FakeEvent(self.clock)
        self.exchange = Exchange(
            self.queue.queues, WorkerSettings(), "packed", lambda results: None, self.stopping, self.clock.now
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
