"""The window that compares what comes with what the model was measured on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import generate_latest

from batcher.messages import Entry
from batcher.worker.drift import SLICE_TEXTS, SLICES, DriftWatch
from batcher.worker.inference import Faults, FinishedBatch, Inference
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import WorkerStats
from model_store import ModelInfo, Tokens
from model_store.drift_reference import FEATURES, MIN_TEXTS, read_reference
from model_store.measuring import Measuring
from model_store.prepare import DEFAULT
from model_store.stub import StubClassifier
from model_store.windows import Windows

WORDS = ["the", "movie", "was", "good", "bad", "long", "fine", "dull", "great", "but", "never", "again"]


class Clock:
    """Seconds that pass only when asked to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """Texts of one kind through a stub, 50 a second by its clock."""

    def __init__(self, *, reference: bool = True) -> None:
        self.clock = Clock()
        self.stub = StubClassifier()
        if reference:
            measuring = Measuring(self.stub)
            measuring.classify(measuring.tokenize(ordinary(3000, seed=1)))
            self.stub.info = replace(self.stub.info, reference=measuring.reference())
        self.watch = DriftWatch(self.stub.info, self.clock)

    def run(self, texts: Sequence[str]) -> float:
        """Classifies them in batches of ten; returns the seconds it took."""
        began = self.clock.now
        for at in range(0, len(texts), 10):
            self.classify(self.stub.tokenize(texts[at : at + 10]))
            self.clock.now += 0.2
        return self.clock.now - began

    def classify(self, batch: Sequence[Tokens]) -> None:
        """Runs one batch, and reports it as a worker does."""
        self.watch.add(list(zip(batch, self.stub.classify(batch), strict=True)))

    @property
    def psi(self) -> dict[str, float]:
        return dict(self.watch.window()[1])


def ordinary(texts: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 40))) for _ in range(texts)]


def foreign(texts: int, seed: int) -> list[str]:
    """Short, and in letters that the tokenizer does not know."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(["добрый", "день", "ok"], k=rng.randint(1, 3))) for _ in range(texts)]


def test_the_same_kind_of_texts_is_no_drift() -> None:
    stream = Stream()
    stream.run(ordinary(3000, seed=2))
    assert set(stream.psi) == set(FEATURES)
    assert max(stream.psi.values()) < 0.1


def test_another_kind_of_texts_is_seen_within_a_minute_and_forgotten_when_it_ends() -> None:
    stream = Stream()
    stream.run(ordinary(3000, seed=3))
    assert max(stream.psi.values()) < 0.1
    assert stream.run(foreign(1000, seed=4)) <= 60
    assert stream.psi["tokens"] > 0.2
    assert stream.psi["unknown"] > 0.2
    stream.run(ordinary(SLICES * SLICE_TEXTS * 2, seed=5))
    assert max(stream.psi.values()) < 0.1


def test_a_label_that_comes_more_often_is_seen() -> None:
    stream = Stream()
    texts = ordinary(6000, seed=6)
    rows = stream.stub.classify(stream.stub.tokenize(texts))
    stream.run([text for text, row in zip(texts, rows, strict=True) if row[1] > 0.5])
    assert stream.psi["label"] > 0.2
    assert stream.psi["tokens"] < 0.1


def test_windows_of_long_texts_are_left_out_and_short_texts_beside_them_are_not() -> None:
    stream = Stream()
    stream.stub.read_in(Windows(50, 10, "mean", 64))
    long = [" ".join(ordinary(30, seed=9))]
    for text in ordinary(3000, seed=10):
        (short,), (whole,) = stream.stub.tokenize([text]), stream.stub.tokenize(long)
        stream.classify([short, *whole.windows[:3]])
        stream.clock.now += 0.02
    texts, psi = stream.watch.window()
    assert texts <= 3000
    assert max(psi.values()) < 0.1
    assert sum(stream.watch.labels) == 4 * 3000


def test_few_texts_and_no_reference_say_nothing() -> None:
    few = Stream()
    few.run(foreign(MIN_TEXTS - 10, seed=7))
    assert few.watch.window() == (MIN_TEXTS - 10, {})
    few.run(foreign(10, seed=8))
    assert few.watch.window()[1].keys() == set(FEATURES)
    without = Stream(reference=False)
    without.run(foreign(500, seed=7))
    assert without.watch.window() == (0, {})
    assert sum(without.watch.labels) == 500


def test_a_window_spans_a_minute_when_texts_come_fast_and_many_texts_when_they_come_slowly() -> None:
    fast = Stream()
    for _ in range(300):  # a minute of 250 texts a second
        fast.classify(fast.stub.tokenize(ordinary(50, seed=8)))
        fast.clock.now += 0.2
    assert fast.watch.window()[0] >= 55 * 250
    slow = Stream()
    for text in ordinary(2500, seed=9):
        slow.classify(slow.stub.tokenize([text]))
        slow.clock.now += 10
    assert SLICES * SLICE_TEXTS <= slow.watch.window()[0] < (SLICES + 1) * SLICE_TEXTS


def batch_of(classifier: StubClassifier, *texts: str) -> FinishedBatch:
    inference = Inference(classifier, Faults(classifier))
    entries = [Entry(text, text, "interactive", 5, 0, 9000, attempts=1) for text in texts]
    return inference.classify_entries(inference.tokenize_entries(entries, "idle")[0], 16)


def test_a_text_that_fails_and_those_of_a_self_test_are_not_counted() -> None:
    """The batch fails, so each text runs alone, and then the engine on texts that no client has sent."""
    stub = StubClassifier()
    scored = batch_of(stub, "\0raise", "fine", "good").scored
    assert [tokens for tokens, _ in scored] == stub.tokenize(["fine", "good"])
    assert [scores for _, scores in scored] == stub.classify(stub.tokenize(["fine", "good"]))


def test_a_report_of_a_batch_adds_its_texts_to_the_window() -> None:
    watch = DriftWatch(StubClassifier().info)
    report = WorkerStats().add(batch_of(StubClassifier(), "fine", "good"))
    WorkerMetrics(watch.info, watch).observe(report)
    assert sum(watch.labels) == 2


def test_scrapes_show_the_index_by_feature_and_the_counts_by_revision() -> None:
    stream = Stream()
    stream.run([*ordinary(1000, seed=11), *foreign(1000, seed=12)])
    info: ModelInfo = stream.stub.info
    registry = WorkerMetrics(info, stream.watch).registry
    revision = info.revision[:12]

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(name, {"revision": revision, **labels})
        assert found is not None, generate_latest(registry).decode()
        return found

    assert value("millrace_drift_psi", feature="tokens", reference="own") > 0.2
    assert value("millrace_drift_window_texts") == 2000
    assert (
        value("millrace_labels_total", label="POSITIVE") + value("millrace_labels_total", label="NEGATIVE")
        == 2000
    )
    assert value("millrace_confidence_count") == value("millrace_text_tokens_count") == 2000
    assert value("millrace_unknown_pieces_total") > 500
    assert value("millrace_truncated_texts_total") == 0


def test_the_reference_of_the_default_model_is_not_one_of_the_user_s_own_texts() -> None:
    """Ordinary texts of a new user raised an alert on the first day."""
    shipped = read_reference(DEFAULT)
    assert shipped is not None
    assert shipped.shipped
    stream = Stream()
    assert stream.watch.reference is not None
    stream.watch.reference = replace(stream.watch.reference, shipped=True)
    stream.run([*ordinary(1000, seed=11), *foreign(1000, seed=12)])
    text = generate_latest(WorkerMetrics(stream.stub.info, stream.watch).registry).decode()
    assert 'reference="shipped"' in text
    assert 'reference="own"' not in text


def test_one_text_that_is_too_long_counts_as_truncated() -> None:
    stream = Stream()
    tokens = Tokens([1] * 512, truncated=True, unknown=0)
    stream.classify([tokens])
    assert stream.watch.truncated == 1
