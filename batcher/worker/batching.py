"""The texts that a worker has claimed and tokenised: they wait for their batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from batcher.core.commands import Claim
from batcher.messages import Entry
from model_store import Layout, Tokens
from model_store.rows import FILL

Reason = Literal["full", "window", "idle", "solo"]


@dataclass(frozen=True, slots=True)
class TokenizedEntry:
    """A claimed and tokenised entry that waits for its batch. `reason` says what triggered its claim."""

    entry: Entry
    tokens: Tokens
    tokenize_s: float
    claimed_at: float
    reason: Reason


class ClaimedTexts:
    """Texts in order of arrival."""

    def __init__(self, layout: Layout) -> None:
        self._entries: list[TokenizedEntry] = []
        self._layout = layout

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def gives_way(self) -> bool:
        """Whether texts that arrive now should run before some of these."""
        return False

    @property
    def only_bulk(self) -> bool:
        """Whether no caller waits for these."""
        return all(held.entry.lane == "bulk" for held in self._entries)

    @property
    def only_solo(self) -> bool:
        """Whether this is a text that runs alone."""
        return all(held.entry.solo for held in self._entries)

    @property
    def tokens(self) -> int:
        return sum(len(held.tokens.ids) for held in self._entries)

    @property
    def ids(self) -> list[str]:
        """The ids of the entries, each once."""
        return list(dict.fromkeys(held.entry.id for held in self._entries))

    def add(self, entries: Iterable[TokenizedEntry]) -> None:
        self._entries += entries

    def next_batch(self, budget: int, bulk_budget: Callable[[], int]) -> list[TokenizedEntry]:
        """Removes the next batch of about `budget` tokens and returns it. `bulk_budget` is not used."""
        chosen = choose_batch([len(held.tokens.ids) for held in self._entries], self._layout, budget)
        batch = [self._entries[index] for index in chosen]
        kept = set(chosen)
        self._entries = [held for index, held in enumerate(self._entries) if index not in kept]
        return batch

    def forget_failed(self) -> None:
        """Removes the windows of texts that have failed: here nothing."""

    def limited(self, claim: Claim, budget: int) -> Claim:
        """The claim of a worker that holds these."""
        return claim


def choose_batch(lengths: Sequence[int], layout: Layout, budget: int) -> list[int]:
    """Selects the next batch from the held texts: indices into `lengths`, at least one if any text is held.

    packed: in order of arrival; a text that does not fit is skipped and comes first in the next batch.
    padded: the first text and those closest to it in length, so that the first text never waits.
    """
    if not lengths:
        return []
    if layout == "packed":
        room = int(budget * FILL) - lengths[0]
        chosen = [0]
        for index in range(1, len(lengths)):
            if lengths[index] <= room:
                room -= lengths[index]
                chosen.append(index)
        return chosen
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return _neighbours(order, lengths, order.index(0), budget)


def _neighbours(order: Sequence[int], lengths: Sequence[int], at: int, budget: int) -> list[int]:
    """Extends a range of the sorted `order` around `at`, shorter texts first: they add the least padding."""
    low = high = at
    while True:
        longest, count = lengths[order[high]], high - low + 1
        if low > 0 and (count + 1) * longest <= budget:
            low -= 1
        elif high + 1 < len(order) and (count + 1) * lengths[order[high + 1]] <= budget:
            high += 1
        else:
            return list(order[low : high + 1])
