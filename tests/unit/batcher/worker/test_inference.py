"""Inference: each entry gets one result, and the watchdog knows for how long the model has been running."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.messages import Entry, Failure, Prediction, entry_id
from batcher.worker.batching import TokenizedEntry
from batcher.worker.inference import FAILED_BATCHES, SIZES, Faults, Inference, warm_up
from model_store.stub import StubClassifier
from tests.fakes import FakeClock


def entry(text: str) -> Entry:
    return Entry(entry_id(text), text, "interactive", 5, waited_ms=3, remaining_ms=900, attempts=1)


def inference(classifier: Any = None, clock: FakeClock | None = None) -> Inference:
    classifier = classifier or StubClassifier()
    return Inference(classifier, Faults(classifier), (clock or FakeClock()).now)


def held(made: Inference, *texts: str) -> list[TokenizedEntry]:
    tokenised, failed = made.tokenize_entries([entry(text) for text in texts], "idle")
    assert failed == []
    return tokenised


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@given(st.lists(st.sampled_from(["good", "fine", "\0raise", "\0raise too", "well"]), min_size=1, unique=True))
def test_only_the_texts_that_the_model_raises_on_fail(texts: list[str]) -> None:
    made = inference()
    finished = made.classify_entries(held(made, *texts), 16)
    outcomes = dict(finished.results)
    assert len(finished.results) == len(outcomes) == len(texts)
    for text in texts:
        kind = Failure if text.startswith("\0") else Prediction
        assert isinstance(outcomes[entry_id(text)], kind)
    assert not made.faults.broken


def test_a_warm_up_has_batches_of_the_sizes_that_it_is_to_measure() -> None:
    classifier, sizes = StubClassifier(), list[list[int]]()
    classify = classifier.classify

    def counted(batch: Any) -> Any:
        sizes.append([len(tokens) for tokens in batch])
        return classify(batch)

    classifier.classify = counted  # type: ignore[method-assign]
    warm_up(classifier)
    assert sizes[1:] == 2 * [[16] * (size // 16) for size in SIZES]


def test_durations_come_from_the_clock() -> None:
    clock = FakeClock()

    class Slow(StubClassifier):
        def tokenize(self, texts: Any) -> Any:
            clock.time += 0.2
            return super().tokenize(texts)

        def classify(self, batch: Any) -> Any:
            clock.time += 2.0
            return super().classify(batch)

    made = inference(Slow(), clock)
    batch = held(made, "one", "two")
    clock.time += 1.0
    finished = made.classify_entries(batch, 16)
    _, prediction = finished.results[0]
    assert isinstance(prediction, Prediction)
    assert prediction.tokenize_ms == pytest.approx(100, abs=5)
    assert prediction.queue_ms == pytest.approx(1003, abs=5)
    assert prediction.model_ms == pytest.approx(2000, abs=5)
    assert finished.spent_s == pytest.approx(2.0, abs=0.005)


def test_running_time_is_that_of_the_oldest_call_and_ends_with_it() -> None:
    clock = FakeClock()
    seen: list[float] = []

    class Watched(StubClassifier):
        def classify(self, batch: Any) -> Any:
            clock.time += 7.0
            seen.append(made.running_s())
            raise ValueError("bad")

    made = inference(Watched(), clock)
    batch = held(made, "one")
    assert made.running_s() == 0.0
    made.classify_entries(batch, 16)
    assert seen[0] == pytest.approx(7.0, abs=0.01)
    assert made.running_s() == 0.0


def test_an_engine_that_fails_its_self_test_makes_suspects_instead_of_failures() -> None:
    class Broken(StubClassifier):
        def classify(self, batch: Any) -> Any:
            return []

    made = inference(Broken())
    finished = made.classify_entries(held(made, "one", "two"), 16)
    assert finished.results == []
    assert made.faults.broken
    assert made.faults.suspects == [entry_id("one"), entry_id("two")]


def test_a_tokenizer_that_loses_a_text_fails_it_alone() -> None:
    class Short(StubClassifier):
        def tokenize(self, texts: Any) -> Any:
            return super().tokenize([text for text in texts if text != "lost"])

    made = inference(Short())
    tokenised, failed = made.tokenize_entries([entry("kept"), entry("lost")], "idle")
    assert [one.entry.text for one in tokenised] == ["kept"]
    assert [(one, type(outcome)) for one, outcome in failed] == [(entry_id("lost"), Failure)]


def test_batch_after_batch_that_fails_means_that_the_engine_is_at_fault() -> None:
    made = inference()
    for number in range(FAILED_BATCHES):
        assert not made.faults.broken
        made.classify_entries(held(made, f"\0raise {number}"), 16)
    assert made.faults.broken


@pytest.mark.parametrize("between", [["good"], ["good", "\0raise also"]])
def test_a_batch_of_which_any_text_succeeds_shows_that_the_engine_works(between: list[str]) -> None:
    made = inference()
    for number in range(2 * FAILED_BATCHES):
        made.classify_entries(held(made, f"\0raise {number}"), 16)
        made.classify_entries(held(made, *between), 16)
    assert not made.faults.broken


def test_a_text_that_fails_again_is_no_further_batch() -> None:
    made = inference()
    for _ in range(2 * FAILED_BATCHES):
        made.classify_entries(held(made, "\0raise"), 16)
    assert not made.faults.broken
