"""Turns the token sequences of a batch into the arrays of a forward pass, and logits into scores.

`layout.py` assigns texts to rows. Filler tokens have segment -1, so that no text attends to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.classifier import Layout, Tokens
from model_store.layout import plan, round_up

# The number of texts is rounded up to this, as row lengths are.
_TEXT_STEP = 8

FILLER = -1

Integers = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward pass: `ids`, `positions`, `segments` of shape (R, T), `first` of shape (at least texts,).

    `positions` restart at 0 with each text, `segments` number the texts of the batch, and `first` holds the
    flat indices of their first tokens, padded with zeros.
    """

    ids: Integers
    positions: Integers
    segments: Integers
    first: Integers


def arrange(batch: Sequence[Tokens], layout: Layout) -> Rows:
    """The arrays for `batch`, which has at least one text. Results come in the order of the batch."""
    lay = plan([len(tokens) for tokens in batch], layout)
    shape = (len(lay.rows), lay.length)
    ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segments = np.full(shape, FILLER, np.int32)
    first = np.zeros(round_up(len(batch), _TEXT_STEP), np.int32)
    for number, row in enumerate(lay.rows):
        start = 0
        for text in row:
            end = start + len(batch[text])
            ids[number, start:end] = batch[text].ids
            positions[number, start:end] = np.arange(end - start)
            segments[number, start:end] = text
            first[text] = number * lay.length + start
            start = end
    return Rows(ids, positions, segments, first)


def scores(logits: Floats, *, temperature: float, multi_label: bool) -> list[list[float]]:
    """Softmax over the labels, or a sigmoid for each, of logits (N, labels) divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    if multi_label:
        result = 1 / (1 + np.exp(-scaled))
    else:
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        result = powers / powers.sum(axis=-1, keepdims=True)
    as_lists: list[list[float]] = result.tolist()
    return as_lists
