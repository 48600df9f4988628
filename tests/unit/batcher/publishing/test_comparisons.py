"""The counts of a shadow: whole numbers, added once."""

from __future__ import annotations

from collections import Counter

import pytest

from batcher.core.publications import Candidate, read_publications
from batcher.messages import Prediction, fragment
from batcher.publishing.shadow import (
    KEEP_S,
    MAX_LABELS,
    SHADOW_S,
    ComparisonStore,
    compare,
    label_pairs,
    report,
)
from tests.conftest import FakeRedis

PAIR = ("topics", 0, 1)


def prediction(scores: dict[str, float], model_ms: float = 2.0, batch_size: int = 4) -> Prediction:
    written = fragment([*scores], [*scores.values()])
    return Prediction(written, "r", 3, model_ms=model_ms, batch_size=batch_size)


def test_two_results_are_compared_by_label() -> None:
    one, other = prediction({"a": 0.7, "b": 0.3}), prediction({"b": 0.6, "a": 0.4}, 3.0, 1)
    counts = compare(one, other)
    assert label_pairs(counts) == {("a", "b"): 1}
    assert (counts["texts"], counts["agree"], counts["scores"]) == (1, 0, 2)
    assert counts["difference"] == 6_000_000
    same, third = compare(one, one), compare(prediction({"a": 0.8, "b": 0.2}), one)
    assert report(counts + same + third + Counter(failed=5, dropped=7)) == {
        "texts": 3,
        "agree": 2,
        "agreement": pytest.approx(2 / 3),
        "mean_difference": pytest.approx((0.3 + 0.0 + 0.1) / 3),
        "labels": {"a": {"a": 2, "b": 1}},
        "batch_ms": {"current": 2.0, "candidate": pytest.approx(7 / 3)},
        "text_ms": {"current": 0.5, "candidate": pytest.approx(4 / 3)},
        "failed": 5,
        "dropped": 7,
        "revisions": {"r": 3},
    }
    assert report(compare(other, one))["text_ms"] == {"current": 3.0, "candidate": 0.5}


def test_a_report_of_nothing_has_no_means() -> None:
    none = {"current": None, "candidate": None}
    assert report({}) == {
        "texts": 0,
        "agree": 0,
        "agreement": None,
        "mean_difference": None,
        "labels": {},
        "batch_ms": none,
        "text_ms": none,
        "failed": 0,
        "dropped": 0,
        "revisions": {},
    }
    assert report({"texts": 2}) == {
        **report({}),
        "texts": 2,
        "agreement": 0.0,
        "batch_ms": {"current": 0.0, "candidate": 0.0},
        "text_ms": {"current": 0.0, "candidate": 0.0},
    }
    assert report({"texts": 2, "scores": 4})["mean_difference"] == 0.0


def test_other_labels_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="labels differ"):
        compare(prediction({"a": 1.0}), prediction({"b": 1.0}))


def test_the_revisions_that_answered_are_told_apart() -> None:
    """Workers were replaced by some with another model meanwhile, and all was said to be of publication 0."""
    one, other = prediction({"a": 1.0}), prediction({"a": 1.0})._replace(revision="1234567890abcdef")
    sums = compare(other, one) + compare(one, other) + compare(other, other)
    assert report(sums)["revisions"] == {"1234567890ab": 2, "r": 1}


def test_a_model_with_many_labels_has_no_matrix() -> None:
    scores = {f"label {number}": 0.001 for number in range(MAX_LABELS)}
    most = prediction(scores)
    assert label_pairs(compare(most, most)) == {("label 0", "label 0"): 1}
    more = prediction(scores | {"one more": 0.001})
    assert not label_pairs(compare(more, more))
    assert compare(more, more)["agree"] == 1


def test_what_is_sent_again_is_added_once_and_shadows_add_up(fake_redis: FakeRedis) -> None:
    store = ComparisonStore(fake_redis.sync, "default")
    for shadow, number in (("one", 1), ("one", 1), ("other", 1), ("one", 2), ("one", 2)):
        store.add(PAIR, shadow, number, Counter(texts=5))
    assert store.read(PAIR) == {"texts": 15}
    assert store.read(("topics", 0, 2)) == {}
    key = "{millrace:2:default}:compared:topics@0:1"
    lives_s = {name: round(fake_redis.sync.ttl(name), -1) for name in (key, f"{key}:one", f"{key}:other")}
    assert lives_s == {key: KEEP_S, f"{key}:one": SHADOW_S, f"{key}:other": SHADOW_S}


def test_all_pairs_of_labels_were_read_each_time_the_console_was_shown(fake_redis: FakeRedis) -> None:
    """200 labels have 40,000 pairs: 0.1 s for each look."""
    store = ComparisonStore(fake_redis.sync, "default")
    assert store.read(PAIR, labels=False) == {}
    counts = compare(prediction({"a": 0.7, '"b": \u00e4': 0.3}), prediction({"a": 0.4, '"b": \u00e4': 0.6}))
    store.add(PAIR, "one", 1, counts)
    whole, few = store.read(PAIR), store.read(PAIR, labels=False)
    assert label_pairs(whole) == {("a", '"b": \u00e4'): 1}
    assert few == {name: count for name, count in whole.items() if ":" not in name}
    assert report(few) == report(whole) | {"labels": {}, "revisions": {}}


@pytest.mark.parametrize("by", ["text", "client"])
def test_a_greater_share_has_all_of_a_smaller_one(by: str) -> None:
    shares = (0.001, 0.05, 0.2, 0.5, 0.999, 1.0)
    words = [f"word {number}" for number in range(2000)]
    taken = [
        {word for word in words if Candidate(1, share, by).takes(word, word)}  # type: ignore[arg-type]
        for share in shares
    ]
    for share, found, more in zip(shares, taken, taken[1:], strict=False):
        assert found <= more
        assert abs(len(found) / len(words) - share) < 0.05
    assert len(taken[-1]) == len(words)


def test_a_candidate_is_read_as_it_was_written_and_what_is_unreadable_is_left_out() -> None:
    candidate = Candidate(3, 0.05, "client", shadow=True)
    fields = {"candidate:topics": candidate.encode(), "candidate:": "[1]", "candidate:x": '"', "other": "1"}
    assert read_publications(fields).candidates == {"topics": candidate}
