"""How long single long texts take, as workers measure it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from batcher.core.snapshot import needs_s
from batcher.worker import inference
from batcher.worker.inference import measure_long
from model_store.stub import StubClassifier
from model_store.windows import Windows

# One second at 1,024 tokens, and four at 2,048: attention alone.
QUADRATIC = ((1024, 1.0), (2048, 4.0))


class Slow(StubClassifier):
    """Reads up to 8,192 tokens, and takes `token_s` for each and `pair_s` for each pair."""

    def __init__(self, clock: list[float], token_s: float, pair_s: float, most: int = 8192) -> None:
        super().__init__()
        self.info = replace(self.info, max_tokens=most)
        self.asked: list[int] = []
        self._clock, self._costs = clock, (token_s, pair_s)

    def classify(self, batch: Any) -> list[list[float]]:
        for text in batch:
            self.asked.append(len(text))
            self._clock[0] += self._costs[0] * len(text) + self._costs[1] * len(text) ** 2
        return super().classify(batch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(inference.time, "perf_counter", lambda: now[0])
    return now


def test_lengths_are_measured_until_one_takes_long(clock: list[float]) -> None:
    quick = Slow(clock, 1e-4, 0)
    assert [tokens for tokens, _ in measure_long(quick)] == [514, 1026, 2050, 4098, 8192]
    slow = Slow(clock, 0, 1e-6)
    assert measure_long(slow) == [(514, 0.2642), (1026, 1.0527)]
    exactly = Slow(clock, 1 / 1026, 0)
    assert [seconds for _, seconds in measure_long(exactly)] == [0.501, 1.0, 1.9981]
    assert needs_s(8192, measure_long(slow)) == pytest.approx(8192**2 * 1e-6, rel=0.01)
    assert needs_s(8192, measure_long(quick)) == pytest.approx(0.8192, rel=0.01)


@pytest.mark.parametrize("most", [512, 1000])
def test_models_of_short_texts_are_not_measured(clock: list[float], most: int) -> None:
    classifier = Slow(clock, 1e-4, 0, most)
    assert measure_long(classifier) == []
    assert classifier.asked == []


def test_texts_in_windows_are_not_measured(clock: list[float]) -> None:
    classifier = Slow(clock, 1e-4, 0)
    classifier.read_in(Windows(126, 31, "mean", 64))
    assert measure_long(classifier) == []


def test_nothing_is_known_of_a_model_that_was_not_measured() -> None:
    assert needs_s(8192, ()) == needs_s(8192, ((512, 1.0),)) == 0.0
    # A first run that was slower than the second does not mean that long ones are quick.
    assert needs_s(8192, ((512, 2.0), (1024, 1.0))) == pytest.approx(8.0)


def test_fewer_tokens_are_read_under_another_revision() -> None:
    classifier, other = StubClassifier(), StubClassifier()
    classifier.limit(8192)
    assert classifier.info.revision == other.info.revision
    classifier.limit(20)
    (tokens,) = classifier.tokenize(["word " * 100])
    assert (len(tokens), tokens.truncated, classifier.info.max_tokens) == (20, 82, 20)
    assert classifier.info.revision != other.info.revision


def test_a_worker_says_that_a_text_could_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from batcher.worker import loop

    monkeypatch.setattr(loop, "measure_long", lambda classifier: [*QUADRATIC])
    worker = loop.Worker.__new__(loop.Worker)
    worker._classifier = classifier = StubClassifier()
    classifier.info = replace(classifier.info, max_tokens=8192)
    with caplog.at_level(logging.WARNING):
        worker._measure_long(timeout_s=64.0)
        worker._measure_long(timeout_s=30.0)
    assert caplog.messages == [
        "a text of 8192 tokens would take about 64 s, and this worker ends after a batch of 30 s: "
        "lower MILLRACE_MAX_TOKENS, or read long texts in windows (MILLRACE_TEXT_WINDOWS)"
    ]
