"""Data and its bytes: what is written is read back, and nothing else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import BudgetExceeded, EntryFailed, EntryPoisoned, Malformed
from batcher.hub.dispatcher import estimate_cost
from batcher.messages import (
    Failure,
    Prediction,
    decode_result,
    entry_id,
    fragment,
)

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
scores = st.floats(0, 1)


@given(unicode_text, unicode_text, unicode_text, unicode_text)
def test_ids_differ_whenever_options_or_text_differ(a: str, b: str, c: str, d: str) -> None:
    assert (entry_id(a, b) == entry_id(c, d)) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("bc", "a"), ("c", "ab")),
        (("0:x", ""), ("x", "0:")),
        (("1:ab", ""), ("b", "a")),
        (("", ":"), (":", "")),
    ],
)
def test_no_concatenation_of_one_pair_reads_as_another(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert entry_id(*one) != entry_id(*other)


def test_an_id_is_a_256_bit_digest() -> None:
    assert len(bytes.fromhex(entry_id("I love you!"))) == 32


@given(unicode_text)
def test_cost_grows_with_the_text_and_counts_the_special_tokens(text: str) -> None:
    assert estimate_cost(text) >= 2
    assert estimate_cost(text + "fives") > estimate_cost(text)


@given(
    st.lists(st.tuples(unicode_text, scores), min_size=1, max_size=5, unique_by=lambda pair: pair[0]),
    st.integers(0, 512),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1e6),
)
def test_a_prediction_survives_its_bytes(
    pairs: list[tuple[str, float]], tokens: int, truncated: bool, foreign: bool, ms: float
) -> None:
    labels, values = zip(*pairs, strict=True)
    before = Prediction(fragment(labels, values), "rev", tokens, truncated, round(ms, 3), 0.25, 1.5, 7)
    before = before._replace(foreign=foreign)
    assert decode_result(before.encode()) == before


def test_a_fragment_is_the_json_of_one_prediction_in_label_order() -> None:
    body = fragment(("NEGATIVE", "POSITIVE"), (0.1, 0.9))
    assert json.loads(body) == [{"label": "NEGATIVE", "score": 0.1}, {"label": "POSITIVE", "score": 0.9}]


def test_labels_and_scores_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        fragment(("A", "B"), (1.0,))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("poison", EntryPoisoned),
        ("inference_failed", EntryFailed),
        ("budget_exceeded", BudgetExceeded),
        ("from a later version", EntryFailed),
    ],
)
def test_a_failure_survives_its_bytes_and_names_its_error(code: str, error: type[Exception]) -> None:
    failure = decode_result(Failure(code, "why").encode())
    assert isinstance(failure, Failure)
    assert type(failure.error()) is error
    assert str(failure.error()) == "why"


@given(st.binary())
def test_foreign_bytes_are_malformed_never_anything_else(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode_result(raw)


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"[1]", b'[{"label":"A"}]', b'[{"label":"A","score":"high"}]', b"[" * 100_000, b"nul"],
)
def test_a_good_header_with_a_foreign_body_is_malformed(body: bytes) -> None:
    header = Prediction(b"", "r", 1).encode()
    with pytest.raises(Malformed):
        decode_result(header + body)


@pytest.mark.parametrize("score", [-0.0, -3.25, 0.0, 1e-7, 1.0])
def test_every_number_that_a_model_may_give_is_read_back(score: float) -> None:
    """A score of -0.0 was written by a worker and then called foreign by every reader."""
    raw = Prediction(fragment(("N", "P"), (1.0, score)), "r", 1).encode()
    assert isinstance(decode_result(raw), Prediction)
