"""How the token sequences of a batch become the arrays of a forward pass, and logits become scores.

An array row holds T tokens. Packed: texts lie end to end, no padding but up to the next multiple of STEP.
Padded: one text a row, filled to the longest. A filler token has segment -1, so no text attends to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.classifier import Layout, Tokens

# A longer row wastes attention on other texts; a shorter one wastes the weights that were fetched for it.
ROW_TOKENS = 512
# Lengths are rounded up, so that an engine meets few different shapes and prepares each of them once.
STEP = 16
_TEXT_STEP = 8

FILLER = -1

Integers = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward pass: `ids`, `positions` and `segments` of shape (R, T), `first` of shape (>= texts,).

    `positions` restart at 0 with each text, `segments` number the texts of the pass, and `first` are the
    flat indices of their first tokens, followed by zeros up to a round number.
    """

    ids: Integers
    positions: Integers
    segments: Integers
    first: Integers
    texts: int


def arrange(batch: Sequence[Tokens], layout: Layout) -> list[Rows]:
    """The passes that compute `batch`, in its order. A text longer than a row has a row of its own."""
    if layout == "padded":
        return [_fill([[tokens] for tokens in batch])]
    return [_fill([row]) for row in _cut(batch)]


def computed_tokens(passes: Sequence[Rows]) -> int:
    """Tokens that the engine computes for these passes, fillers included."""
    return sum(rows.ids.size for rows in passes)


def scores(logits: Floats, *, temperature: float, multi_label: bool) -> list[list[float]]:
    """Softmax over the labels, or a sigmoid of each, of logits (N, labels) divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    if multi_label:
        result = 1 / (1 + np.exp(-scaled))
    else:
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        result = powers / powers.sum(axis=-1, keepdims=True)
    as_lists: list[list[float]] = result.tolist()
    return as_lists


def _cut(batch: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    row: list[Tokens] = []
    used = 0
    for tokens in batch:
        if row and used + len(tokens) > ROW_TOKENS:
            yield row
            row, used = [], 0
        row.append(tokens)
        used += len(tokens)
    if row:
        yield row


def _fill(rows: Sequence[Sequence[Tokens]]) -> Rows:
    length = _round_up(max(sum(map(len, row)) for row in rows), STEP)
    texts = sum(map(len, rows))
    shape = (len(rows), length)
    ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segments = np.full(shape, FILLER, np.int32)
    first = np.zeros(_round_up(texts, _TEXT_STEP), np.int32)
    text = 0
    for number, row in enumerate(rows):
        start = 0
        for tokens in row:
            end = start + len(tokens)
            ids[number, start:end] = tokens.ids
            positions[number, start:end] = np.arange(end - start)
            segments[number, start:end] = text
            first[text] = number * length + start
            start, text = end, text + 1
    return Rows(ids, positions, segments, first, texts)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def share_out(lengths: Sequence[int], layout: Layout, pass_tokens: int = ROW_TOKENS) -> list[list[int]]:
    """Indices of texts with these lengths, shared out to passes of about `pass_tokens` tokens each.

    For work without a deadline: padded texts are sorted by length first, packed ones keep their order.
    """
    order = list(range(len(lengths)))
    if layout == "padded":
        order.sort(key=lengths.__getitem__)
    passes: list[list[int]] = []
    used = longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        used = (len(passes[-1]) + 1) * longest if passes and layout == "padded" else used + lengths[index]
        if not passes or used > pass_tokens:
            passes.append([])
            used = longest = lengths[index]
        passes[-1].append(index)
    return passes
