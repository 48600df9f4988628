"""Any batch of any lengths is laid out so that each text finds its own tokens again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import Layout, Tokens
from model_store.rows import FILLER, ROW_TOKENS, STEP, arrange, computed_tokens, scores, share_out

LENGTHS = st.lists(st.integers(1, 700), min_size=1, max_size=60)
LAYOUTS = st.sampled_from(["packed", "padded"])


def batch(lengths: list[int]) -> list[Tokens]:
    return [Tokens(list(range(1, length + 1)), truncated=False, unknown=0) for length in lengths]


@given(LENGTHS, LAYOUTS)
def test_every_text_is_found_again_in_order(lengths: list[int], layout: Layout) -> None:
    texts = batch(lengths)
    found = []
    for rows in arrange(texts, layout):
        ids, segments, positions = (array.ravel() for array in (rows.ids, rows.segments, rows.positions))
        for number in range(rows.texts):
            own = segments == number
            assert positions[own].tolist() == list(range(own.sum()))
            assert np.flatnonzero(own)[0] == rows.first[number]
            found.append(ids[own].tolist())
        assert ids[segments == FILLER].sum() == 0
    assert found == [list(tokens.ids) for tokens in texts]


@given(LENGTHS)
def test_packed_rows_are_full_and_hold_no_padding_but_the_rounding(lengths: list[int]) -> None:
    passes = arrange(batch(lengths), "packed")
    assert computed_tokens(passes) < sum(lengths) + STEP * len(passes)
    for rows in passes:
        assert rows.ids.shape[0] == 1
        assert rows.ids.shape[1] <= ROW_TOKENS or rows.texts == 1
    for one, other in itertools.pairwise(passes):
        assert (one.segments != FILLER).sum() + (other.segments == 0).sum() > ROW_TOKENS


@given(LENGTHS, LAYOUTS, st.integers(1, 1000))
def test_sharing_out_gives_every_text_once_and_keeps_to_the_size(
    lengths: list[int], layout: Layout, size: int
) -> None:
    passes = share_out(lengths, layout, size)
    flat = [index for indices in passes for index in indices]
    assert sorted(flat) == list(range(len(lengths)))
    if layout == "packed":
        assert flat == sorted(flat)
    for indices in passes:
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
