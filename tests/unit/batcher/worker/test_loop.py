"""The loop of a worker: no entry is lost, answers go first, and a stop at any point is safe."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.commands import Claim, Claimed
from batcher.messages import Entry, Prediction, entry_id
from batcher.settings import WorkerSettings
from batcher.worker.batching import Arrivals, CostModel
from batcher.worker.exchange import PATIENCE_S
from batcher.worker.loop import Worker
from batcher.worker.stats import FOLLOW_UP_S, BatchReport
from model_store.stub import StubClassifier
from tests.fakes import LOST, FakeClock, FakeQueue, Pace, fake_host

GOOD = [f"text {number} " + "word " * (number % 7) for number in range(12)]
BAD = ["\0raise one", "\0raise two", "unreadable"]


class Model(StubClassifier):
    """A stub whose tokenizer raises on one text."""

    def tokenize(self, texts: Any) -> Any:
        if "unreadable" in texts:
            raise ValueError("unreadable")
        return super().tokenize(texts)


class Made:
    """A worker with a queue in memory. It stops once it has waited twice for nothing.

    No heartbeat is due meanwhile: it would take an error that is meant for another round trip.
    """

    def __init__(
        self, queue: FakeQueue, *, pace: Pace = "early", classifier: Any = None, **settings: Any
    ) -> None:
        self.clock = FakeClock()
        self.queue = queue
        self.reports: list[BatchReport] = []
        self.remembered: list[str] = []
        self.claimed_at: list[float] = []
        self.worker = Worker(
            classifier or Model(),
            queue.queues,
            WorkerSettings(lease_ms=60_000, **settings),
            self._remember,
            self.reports.append,
            fake_host(self.clock, pace, lambda: queue.log.append("join")),
        )
        self._idle = 0
        queue.on_idle = self._waited

    def _remember(self, results: Iterable[tuple[str, Prediction]], claimed_at: float) -> None:
        self.remembered.extend(entry for entry, _ in results)
        self.claimed_at.append(claimed_at)

    def _waited(self) -> None:
        self._idle += 1
        if self._idle >= 2:
            self.worker.stop()

    def run(self) -> None:
        self.worker.run()


paces = st.sampled_from(get_args(Pace))
faults = st.lists(st.none() | st.tuples(st.sampled_from(["refused", "lost"]), st.just(LOST)), max_size=12)
texts = st.lists(st.sampled_from(GOOD + BAD), unique=True)


@given(texts, texts, faults, paces, st.sampled_from([0.0, 0.05]), st.none() | st.integers(1, 400))
def test_every_entry_is_completed_or_left_to_others_exactly_once(
    mixed: list[str],
    alone: list[str],
    errors: list[Any],
    pace: Pace,
    batch_s: float,
    stop_at: int | None,
) -> None:
    """Whatever Redis and the model do, and whenever the worker is asked to stop."""
    logging.disable(logging.CRITICAL)
    try:
        queue = FakeQueue(mixed, [f"alone {text}" for text in alone])
        made = Made(queue, pace=pace, batch_tokens=24)
        queue.errors = [None, *errors]
        expect(made, batch_s)
        if stop_at is not None:
            made.clock.on_look = lambda looks: made.worker.stop() if looks == stop_at else None
        made.run()
    finally:
        logging.disable(logging.NOTSET)
    places = [*queue.completed, *queue.waiting, *queue.leased]
    assert sorted(places) == sorted(queue.texts), "each entry is in one place"
    assert made.worker.exchange.here.leases == set(), "what is left runs elsewhere once its lease ends"
    if not any(errors):
        assert not queue.leased, "without an outage nothing waits for a lease to end"
        if stop_at is None:
            assert not queue.waiting
    assert queue.retired == []


@given(texts, faults, paces)
def test_leases_are_held_from_the_claim_to_the_result(
    mixed: list[str], errors: list[Any], pace: Pace
) -> None:
    queue = FakeQueue(mixed)
    made = Made(queue, pace=pace, batch_tokens=16)
    leases = made.worker.exchange.here.leases
    classify = made.worker._classifier.classify

    def classifying(batch: Any) -> Any:
        if not any(errors):
            assert leases == queue.leased, "claimed, and not completed"
        assert leases <= set(queue.texts) - set(queue.waiting)
        return classify(batch)

    made.worker._classifier.classify = classifying  # type: ignore[method-assign]
    queue.errors = [None, *errors]
    logging.disable(logging.CRITICAL)
    try:
        made.run()
    finally:
        logging.disable(logging.NOTSET)
    assert leases == set()


@pytest.mark.parametrize("pace", get_args(Pace))
def test_an_idle_worker_answers_before_it_keeps_its_books(pace: Pace) -> None:
    made = Made(FakeQueue(["one text"]), pace=pace)
    made.worker.follow_up.observe = lambda report: made.queue.log.append("observed")
    made.run()
    assert made.queue.log.index("complete 1") < made.queue.log.index("observed")
    assert made.worker.stats.texts == 1


def test_the_books_of_a_batch_wait_until_its_answer_is_on_its_way() -> None:
    made = Made(FakeQueue(["one text"]))
    at: list[float] = []
    made.worker.follow_up.observe = lambda report: at.append(made.clock.time - report.ended_at)
    made.run()
    assert at[0] == pytest.approx(FOLLOW_UP_S, abs=0.005)


def expect(made: Made, batch_s: float) -> None:
    """Makes the worker expect forward passes of this duration."""
    made.worker.inference.cost = CostModel.start(fixed_s=batch_s, token_s=1e-9)


def test_a_batch_that_ends_early_does_not_wait_for_the_claim_that_was_planned() -> None:
    """Its results used to wait until the worker had claimed for the next batch."""
    queue = FakeQueue(["one text"])
    made = Made(queue, pace="late")
    expect(made, 0.05)
    made.run()
    assert queue.log == ["claim 1", "complete 1", "claim 0", "claim 0"], "a claim travels with each wait"


def test_results_are_sent_before_a_worker_waits_for_a_batch_to_fill() -> None:
    """Not with the wait, which is in two parts then: until an entry arrives, and for those that follow."""
    queue = FakeQueue(["one text"])
    made = Made(queue, pace="late")
    expect(made, 0.05)
    made.worker.exchange.here.arrivals = Arrivals(rate=1000.0)
    made.run()
    assert queue.log == ["claim 1", "complete 1", "claim 0"]
    assert queue.completed == list(queue.texts)


def test_results_do_not_wait_for_a_claim_that_is_under_way() -> None:
    queue = FakeQueue(GOOD)
    Made(queue, pace="under way", batch_texts=4).run()
    assert queue.log[:4] == ["claim 4", "claim 4 more", "complete 4", "join"]


def test_a_claim_made_while_a_batch_runs_does_not_make_a_worker_idle() -> None:
    queue = FakeQueue(["one text"])
    made = Made(queue, pace="under way")
    expect(made, 0.05)
    made.run()
    assert queue.log[:5] == ["claim 1", "claim 0 more", "complete 1", "join", "claim 0"]


def test_the_claim_for_the_next_batch_is_made_while_one_runs() -> None:
    queue = FakeQueue(GOOD)
    made = Made(queue, batch_texts=4)
    made.run()
    assert made.worker.stats.texts == len(GOOD)
    assert queue.log[:4] == ["claim 4", "claim 4 more", "join", "complete 4"]


def test_a_quarantined_text_runs_without_company() -> None:
    queue = FakeQueue(solo=["suspect"])
    made = Made(queue)
    expect(made, 0.05)
    made.run()
    assert queue.log[:2] == ["claim 1", "complete 1"]
    assert [report.reason for report in made.reports] == ["solo"]


@pytest.mark.parametrize("remembers", [True, False])
def test_results_are_cached_once_if_completing_them_does_not(remembers: bool) -> None:
    queue = FakeQueue([*GOOD[:3], BAD[0]])
    queue.remembers = remembers
    made = Made(queue)
    made.run()
    good = {entry_id(text) for text in GOOD[:3]}
    assert (set(made.remembered), len(made.remembered)) == (
        set() if remembers else good,
        0 if remembers else 3,
    )


def test_the_cache_hears_when_the_first_text_of_a_batch_was_claimed() -> None:
    queue = FakeQueue(GOOD[:3])
    queue.remembers = False
    made = Made(queue)
    began = made.clock.time
    take = made.worker.inference.tokenize_entries

    def slow(*claimed: Any) -> Any:
        taken = take(*claimed)
        made.clock.time += 5
        return taken

    made.worker.inference.tokenize_entries = slow  # type: ignore[method-assign]
    made.run()
    assert made.claimed_at == [pytest.approx(began, abs=1)]


def test_a_worker_that_could_not_send_its_results_claims_before_it_waits() -> None:
    """Redis does not know that it is idle, so it would not be woken. The fake queue asserts that."""
    queue = FakeQueue(["one text"])
    queue.remembers = False
    queue.errors = [None, None, *[("refused", LOST)] * 500]
    made = Made(queue)
    made.clock.on_look = lambda looks: (
        queue.errors.clear() if made.clock.time > 1000 + 2 * PATIENCE_S else None
    )
    made.run()
    assert queue.completed == made.remembered == []
    assert queue.leased == set(queue.texts)


def test_an_error_of_an_observer_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    made = Made(FakeQueue(GOOD), batch_tokens=20)

    def observe(report: BatchReport) -> None:
        raise ZeroDivisionError

    made.worker.follow_up.observe = observe
    made.run()
    assert sorted(made.queue.completed) == sorted(made.queue.texts)
    assert {record.__dict__["action"] for record in caplog.records if record.levelname == "ERROR"} == {
        "worker.beside"
    }


class Dead(StubClassifier):
    """An engine that fails on everything after its first batch."""

    batches = 0

    def classify(self, batch: Any) -> Any:
        self.batches += 1
        if self.batches > 1:
            raise RuntimeError("the device is gone")
        return super().classify(batch)


@given(paces)
def test_a_broken_engine_fails_no_text_and_gives_back_all_others(pace: Pace) -> None:
    logging.disable(logging.CRITICAL)
    try:
        queue = FakeQueue(GOOD)
        made = Made(queue, pace=pace, classifier=Dead(), batch_texts=4)
        made.run()
    finally:
        logging.disable(logging.NOTSET)
    assert made.worker.broken
    assert len(queue.completed) == 4
    assert queue.retired is not None
    assert set(queue.retired) == queue.leased, "suspects run alone elsewhere"
    assert sorted([*queue.completed, *queue.leased, *queue.waiting]) == sorted(queue.texts)


class Mixed(FakeQueue):
    """A queue whose texts are bulk entries if their name begins so, and which come after the others."""

    def _claim(self, command: Claim) -> Claimed:
        bulk = [entry for entry in self.waiting if self._is_bulk(entry)]
        self.waiting = [entry for entry in self.waiting if entry not in bulk]
        if command.bulk_cost >= 0:
            self.waiting += bulk
            bulk = []
        claimed = super()._claim(command)
        self.waiting += bulk
        return replace(claimed, left=len(self.waiting))

    def _entry(self, entry: str) -> Entry:
        return replace(super()._entry(entry), lane="bulk" if self._is_bulk(entry) else "interactive")

    def _is_bulk(self, entry: str) -> bool:
        return self.texts[entry].startswith("bulk")


@pytest.mark.parametrize("pace", get_args(Pace))
def test_a_text_that_comes_while_bulk_entries_are_held_is_in_the_next_batch(pace: Pace) -> None:
    """The results of the batch before it are sent in the same round trip as the claim, at its end."""
    queue = Mixed(["first", *(f"bulk {number} " + "word " * 12 for number in range(9))])
    made = Made(queue, pace=pace, batch_tokens=256, bulk_wait_ms=0.001)
    expect(made, 0.05)
    batches: list[list[str]] = []
    run = made.worker.inference.classify_entries

    def running(batch: Any, computed: int) -> Any:
        batches.append([queue.texts[item.entry.id] for item in batch])
        if len(batches) == 2:
            late = entry_id("late")
            queue.texts[late] = "late"
            queue.waiting.append(late)
        return run(batch, computed)

    made.worker.inference.classify_entries = running  # type: ignore[method-assign]
    made.run()
    assert batches[0][0] == "first"
    assert all(text.startswith("bulk") for text in batches[1])
    assert batches[2] == ["late"]
    assert sorted(queue.completed) == sorted(queue.texts)
    assert [report.reason for report in made.reports[1:]].count("bulk") >= 2
    assert queue.log[queue.log.index("claim 1 more") - 1] == f"complete {len(batches[1])}"
