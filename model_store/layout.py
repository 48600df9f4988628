"""Assigns the texts of a batch to rows: pure functions of their lengths, for packed and padded batches.

Packed: texts lie end to end, in the number of rows that computes fastest. Longer rows waste more attention
between texts that do not see each other; more rows waste more room at their ends. Padded: one text per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from model_store.classifier import Layout

# Row lengths are rounded up to this, because an engine compiles once for each shape.
STEP = 16
# The share of a batch that texts fill, because lengths rarely add up exactly.
FILL = 0.975
# Batch sizes that are multiples of this waste the least room at the ends of rows.
ROW = 128
# In a row of this length, attention costs about as much as the rest of an encoder.
_ATTENTION_TOKENS = 1500
# In shorter rows, the room wasted at their ends costs more than the attention saved.
_LEAST_ROW = 112


@dataclass(frozen=True, slots=True)
class Plan:
    """The texts of each row, as indices into the planned lengths, and the length of all rows in tokens."""

    rows: tuple[tuple[int, ...], ...]
    length: int

    @property
    def computed_tokens(self) -> int:
        """Tokens that an engine computes for this batch, including padding."""
        return len(self.rows) * self.length

    @property
    def _cost(self) -> float:
        return self.computed_tokens * (1 + self.length / _ATTENTION_TOKENS)


def plan(lengths: Sequence[int], layout: Layout) -> Plan:
    """Plans the layout of a batch with texts of these lengths (at least one)."""
    return _plan(tuple(lengths), layout)


# Cached because the worker computes the cost of a batch, and the engine then plans the same batch.
@lru_cache(maxsize=4)
def _plan(lengths: tuple[int, ...], layout: Layout) -> Plan:
    if layout == "padded":
        return Plan(tuple((index,) for index in range(len(lengths))), round_up(max(lengths), STEP))
    return min(_packed_plans(lengths), key=lambda one: one._cost)


def computed_tokens(lengths: Sequence[int], layout: Layout) -> int:
    """Tokens that an engine computes for these lengths, including padding; 0 without texts."""
    return plan(lengths, layout).computed_tokens if lengths else 0


def share_out(lengths: Sequence[int], layout: Layout, pass_tokens: int = 512) -> list[list[int]]:
    """Divides texts of these lengths into batches of about `pass_tokens` tokens at most; returns indices.

    Meant for offline work: padded texts are first sorted by length, packed ones keep their order.
    """
    order = list(range(len(lengths)))
    if layout == "padded":
        order.sort(key=lengths.__getitem__)
    room = pass_tokens if layout == "padded" else int(pass_tokens * FILL)
    passes: list[list[int]] = []
    used = longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        used = (len(passes[-1]) + 1) * longest if passes and layout == "padded" else used + lengths[index]
        if not passes or used > room:
            passes.append([])
            used = longest = lengths[index]
        passes[-1].append(index)
    return passes


def round_up(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step


def _packed_plans(lengths: Sequence[int]) -> Iterator[Plan]:
    """Plans for a few reasonable numbers of rows, each with the shortest rows that hold all texts."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    total, longest = sum(lengths), lengths[order[0]]
    most = max(1, total // max(_LEAST_ROW, longest))
    for count in {most, max(most - 1, 1), -(-most // 2)}:
        length = round_up(max(longest, -(-total // count)), STEP)
        while (rows := _fitted(order, lengths, count, length)) is None:
            length += STEP
        yield Plan(rows, length)


def _fitted(
    order: Sequence[int], lengths: Sequence[int], count: int, length: int
) -> tuple[tuple[int, ...], ...] | None:
    """Best-fit packing into `count` rows, longest text first; None if the texts do not fit."""
    rows: list[list[int]] = [[] for _ in range(count)]
    room = [length] * count
    for index in order:
        fits = [row for row in range(count) if room[row] >= lengths[index]]
        if not fits:
            return None
        row = min(fits, key=room.__getitem__)
        rows[row].append(index)
        room[row] -= lengths[index]
    return tuple(tuple(sorted(row)) for row in rows)
