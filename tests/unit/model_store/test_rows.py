"""Any batch of any lengths is laid out so that each text finds its own tokens again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_store import Layout, Tokens
from model_store.rows import FILLER, STEP, arrange, computed_tokens, plan, scores, share_out

LENGTHS = st.lists(st.integers(1, 700), min_size=1, max_size=60)
LAYOUTS = st.sampled_from(["packed", "padded"])


def batch(lengths: list[int]) -> list[Tokens]:
    return [Tokens(list(range(1, length + 1)), truncated=False, unknown=0) for length in lengths]


@given(LENGTHS, LAYOUTS)
def test_every_text_is_found_again_in_order(lengths: list[int], layout: Layout) -> None:
    texts = batch(lengths)
    rows = arrange(texts, layout)
    ids, segments, positions = (array.ravel() for array in (rows.ids, rows.segments, rows.positions))
    assert ids[segments == FILLER].sum() == 0
    for number, tokens in enumerate(texts):
        own = segments == number
        assert ids[own].tolist() == list(tokens.ids)
        assert positions[own].tolist() == list(range(len(tokens)))
        assert np.flatnonzero(own)[0] == rows.first[number]
    assert rows.ids.size == computed_tokens(lengths, layout)


@given(LENGTHS)
@example([247, *[253] * 6])  # fits into one row less than planned, which was computed empty
def test_packed_rows_leave_little_room(lengths: list[int]) -> None:
    """No two rows would fit into one."""
    found = plan(lengths, "packed")
    assert sorted(index for row in found.rows for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in found.rows]
    assert max(used) <= found.length
    assert found.length % STEP == 0
    assert all(one + other > found.length - STEP for one, other in itertools.combinations(used, 2))


def test_a_long_text_does_not_make_the_rows_of_others_long() -> None:
    assert computed_tokens([300, *[20] * 10], "packed") <= 512
    assert computed_tokens([20], "packed") == 32
    assert plan([25] * 20, "packed").length < 200


@given(LENGTHS, LAYOUTS, st.integers(1, 1000))
def test_sharing_out_gives_every_text_once_and_keeps_to_the_size(
    lengths: list[int], layout: Layout, size: int
) -> None:
    batches = share_out(lengths, layout, size)
    flat = [index for indices in batches for index in indices]
    assert sorted(flat) == list(range(len(lengths)))
    if layout == "packed":
        assert flat == sorted(flat)
    for indices in batches:
        longest = max(lengths[index] for index in indices)
        cost = longest * len(indices) if layout == "padded" else sum(lengths[index] for index in indices)
        assert cost <= size or len(indices) == 1


def test_scores_of_extreme_logits_are_exact() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, np.log(3.0)]], np.float32)
    (sure, unsure) = scores(logits, temperature=1, multi_label=False)
    assert sure == [1.0, 0.0]
    assert unsure == pytest.approx([0.25, 0.75])
    (cooled,) = scores(logits[1:], temperature=0.5, multi_label=False)
    assert cooled == pytest.approx([0.1, 0.9])
    (independent,) = scores(logits[1:], temperature=1, multi_label=True)
    assert independent == pytest.approx([0.5, 0.75])
