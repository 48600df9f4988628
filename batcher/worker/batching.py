"""The texts that a worker has claimed and tokenised: they wait for their batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from batcher.messages import Entry, Failure
from model_store import Layout, ModelInfo, Tokens
from model_store.rows import FILL
from model_store.windows import joined

if TYPE_CHECKING:
    from batcher.messages import Result

Reason = Literal["full", "window", "idle", "solo"]
# With windows of interactive entries for this many batches, a worker claims nothing.
_MOST_BATCHES = 16
# The share of a batch that a worker claims of interactive texts while windows fill the rest.
_SHARE = 1 / 4
# Batches that windows of bulk entries are passed over for, so that they get an eighth beside other texts.
_BULK_PASSED_OVER = 7


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

    def claimable(self, cost: int, bulk_cost: int, budget: int) -> tuple[int, int]:
        """The tokens of a claim, and those of bulk entries among them, for a worker that holds these."""
        return cost, bulk_cost


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
        longest = lengths[order[high]]
        count = high - low + 1
        if low > 0 and (count + 1) * longest <= budget:
            low -= 1
        elif high + 1 < len(order) and (count + 1) * lengths[order[high + 1]] <= budget:
            high += 1
        else:
            return list(order[low : high + 1])


class LongText:
    """A text in windows: the scores of those that have run. No more of them run once it has `failed`."""

    __slots__ = ("failed", "held", "rows")

    def __init__(self, held: TokenizedEntry) -> None:
        self.held = held
        self.rows: dict[int, list[float]] = {}
        self.failed = False


@dataclass(frozen=True, slots=True)
class TokenizedWindow(TokenizedEntry):
    """One window of a text. Its entry has its share of the text's cost."""

    text: LongText
    number: int


def split_texts(entries: Sequence[TokenizedEntry]) -> list[TokenizedEntry]:
    """Replaces each text that has windows by its windows."""
    split: list[TokenizedEntry] = []
    for held in entries:
        if not held.tokens.windows:
            split.append(held)
            continue
        text = LongText(held)
        count = len(held.tokens.windows)
        entry = replace(held.entry, cost=max(held.entry.cost // count, 1))
        about = held.tokenize_s / count, held.claimed_at, held.reason
        split += [
            TokenizedWindow(entry, tokens, *about, text, number)
            for number, tokens in enumerate(held.tokens.windows)
        ]
    return split


def ended_texts(
    batch: Iterable[tuple[TokenizedEntry, list[float]]], info: ModelInfo
) -> Iterator[tuple[TokenizedEntry, list[float]]]:
    """Yields the texts whose last window was in this batch, or that have no windows, with their scores."""
    assert info.windows is not None
    for held, scores in batch:
        if not isinstance(held, TokenizedWindow):
            yield held, scores
            continue
        rows = held.text.rows
        rows[held.number] = scores
        if len(rows) == len(held.text.held.tokens.windows):
            in_order = [rows[number] for number in sorted(rows)]
            yield held.text.held, joined(in_order, info.windows, multi_label=info.multi_label)


def fail_texts(batch: Sequence[TokenizedEntry], results: Iterable[Result]) -> list[Result]:
    """Marks the texts of which a window failed. Returns the results with one for each text."""
    outcomes = dict(results)
    for held in batch:
        if isinstance(held, TokenizedWindow) and isinstance(outcomes.get(held.entry.id), Failure):
            held.text.failed = True
    return list(outcomes.items())


class TextsWithWindows(ClaimedTexts):
    """Texts and windows. Texts come first, but windows are not passed over for long."""

    # Batches since the last one with a window.
    _passed_over = 0

    @property
    def gives_way(self) -> bool:
        """Whether there are windows."""
        return any(isinstance(held, TokenizedWindow) for held in self._entries)

    def next_batch(self, budget: int, bulk_budget: Callable[[], int]) -> list[TokenizedEntry]:
        """As `ClaimedTexts`, but windows of bulk entries fill only `bulk_budget` tokens.

        One that has been passed over too often leads the batch, in addition to these.
        """
        windows = sorted((held for held in self._entries if isinstance(held, TokenizedWindow)), key=_is_bulk)
        if not windows:
            return super().next_batch(budget, bulk_budget)
        texts = [held for held in self._entries if not isinstance(held, TokenizedWindow)]
        lead = int(self._passed_over >= (_BULK_PASSED_OVER if _is_bulk(windows[0]) else 1))
        first = [*windows[:lead], *texts]
        others = windows[lead:]
        self._entries = [*first, *others]
        room = bulk_budget()
        if not all(map(_is_bulk, self._entries)):
            own = [*first, *(held for held in others if not _is_bulk(held))]
            room += math.ceil(sum(len(held.tokens.ids) for held in own) / FILL)
        batch = super().next_batch(min(budget, room), bulk_budget)
        ran = any(isinstance(held, TokenizedWindow) for held in batch)
        self._passed_over = 0 if ran else self._passed_over + 1
        return batch

    def forget_failed(self) -> None:
        """Removes the windows of texts that have failed."""
        self._entries = [
            held for held in self._entries if not (isinstance(held, TokenizedWindow) and held.text.failed)
        ]

    def claimable(self, cost: int, bulk_cost: int, budget: int) -> tuple[int, int]:
        """While windows fill a batch, some interactive entries are claimed and no bulk ones."""
        windows = [held for held in self._entries if isinstance(held, TokenizedWindow)]
        if sum(len(held.tokens.ids) for held in windows) < budget:
            return cost, bulk_cost
        own = sum(len(held.tokens.ids) for held in windows if not _is_bulk(held))
        return max(cost, int(budget * _SHARE)) if own < _MOST_BATCHES * budget else 0, -1


def _is_bulk(held: TokenizedEntry) -> bool:
    return held.entry.lane == "bulk"
