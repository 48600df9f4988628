"""Which text of a pass lies in which row: pure arithmetic on lengths, for packed and padded passes alike.

Packed: texts lie end to end in as many rows as compute fastest. A longer row spends more on attention between
texts that do not see each other; more rows leave more room at their ends. Padded: one text a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from model_store.classifier import Layout

# Row lengths are rounded up, so that an engine meets few different shapes and prepares each of them once.
STEP = 16
# Texts of a pass are laid out to fill this share of it: lengths rarely add up exactly.
FILL = 0.975
# Passes of a multiple of this leave the least room at the ends of their rows.
ROW = 128
# In a row of this length attention costs about as much as all the rest of an encoder.
_ATTENTION_TOKENS = 1500
# Shorter rows save no attention worth their ends.
_LEAST_ROW = 112


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows of indices into the lengths that were planned for, and the length of every row in tokens."""

    rows: tuple[tuple[int, ...], ...]
    length: int

    @property
    def computed_tokens(self) -> int:
        """Tokens that an engine computes for this pass, fillers included."""
        return len(self.rows) * self.length

    @property
    def _cost(self) -> float:
        return self.computed_tokens * (1 + self.length / _ATTENTION_TOKENS)


def plan(lengths: Sequence[int], layout: Layout) -> Plan:
    """How one pass over texts of these lengths (at least one text) is laid out."""
    return _plan(tuple(lengths), layout)


# A worker asks for the cost of a pass, and the engine lays out the same one right after.
@lru_cache(maxsize=4)
def _plan(lengths: tuple[int, ...], layout: Layout) -> Plan:
    if layout == "padded":
        return Plan(tuple((index,) for index in range(len(lengths))), round_up(max(lengths), STEP))
    return min(_packed_plans(lengths), key=lambda one: one._cost)


def computed_tokens(lengths: Sequence[int], layout: Layout) -> int:
    """Tokens that one pass over these lengths computes, padding included; 0 for no text."""
    return plan(lengths, layout).computed_tokens if lengths else 0


def share_out(lengths: Sequence[int], layout: Layout, pass_tokens: int = 512) -> list[list[int]]:
    """Indices of texts with these lengths, shared out to passes of at most about `pass_tokens` tokens each.

    For work without a deadline: padded texts are sorted by length first, packed ones keep their order.
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
    """For a few sensible numbers of rows the shortest length that holds everything."""
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
    """The texts in `count` rows, longest first, each where the least room is left; or None."""
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
