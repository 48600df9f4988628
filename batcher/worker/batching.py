"""What a worker claims, and which texts form a batch, by what a forward pass costs.

A forward pass takes about `fixed_s + token_s x tokens`, from which follows how many tokens a batch should
have, and whether it is worth waiting for more. The texts that are claimed and tokenised wait here for theirs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from batcher.messages import Entry, Failure
from model_store import Layout, ModelInfo, Tokens
from model_store.rows import FILL, ROW, STEP, round_up
from model_store.windows import joined

if TYPE_CHECKING:
    from batcher.messages import Result

Reason = Literal["full", "window", "idle", "solo", "bulk"]
# With windows of interactive entries for this many batches, a worker claims nothing.
_MAX_BATCHES = 16
# The share of a batch that a worker claims of interactive texts while windows fill the rest.
_SHARE = 1 / 4
# Bulk entries get an eighth of the tokens beside interactive ones. If that is too little for one, it leads
# each eighth batch.
_BULK_SHARE = 1 / 8
_BULK_PASSED_OVER = 7
# Weight of the newest batch in the cost model: about the last 50 count.
_FORGET = 0.02
# A batch is large enough once its fixed cost is this share of the total; larger ones only add latency.
_FIXED_SHARE = 0.04
# With a backlog, texts wait for earlier batches, so fewer and larger batches are better. A new text waits for
# half of this on average. Batches are shorter while an entry has priority: see claim.lua.
_LONG_BATCH_S = 0.1
# How long an interactive text may wait for a bulk batch: in passes of a typical one, or where such texts are
# rare as a share of the time between them (in the last seconds), but no longer than makes bulk efficient.
_OWN_PASSES = 1.5
_EFFICIENT = 0.93
_GAP_SHARE = 1 / 20
_LAST_S = 2.0
# After this many seconds without interactive traffic, bulk batches are full, whatever the settings say.
_INTERACTIVE_RECENT_S = 60.0
# A delay that a caller does not notice, and the time to handle a text besides its forward pass.
_UNNOTICED_S = 0.002
_HANDLING_S = 0.0003


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a forward pass as a linear function of its computed tokens, learned from measured batches.

    Holds exponentially decaying moments of (tokens, seconds), from which least squares gives the line. The
    moments start from two invented batches, so that the line is plausible before anything is measured.
    """

    weight: float
    tokens: float
    seconds: float
    tokens2: float
    product: float

    @classmethod
    def start(cls, fixed_s: float = 0.001, token_s: float = 0.0001) -> CostModel:
        model = cls(0.0, 0.0, 0.0, 0.0, 0.0)
        for tokens in (16, 256):
            model = model._add(tokens, fixed_s + token_s * tokens, 0.0)
        return model

    def _add(self, tokens: float, seconds: float, forget: float) -> CostModel:
        keep = 1.0 - forget
        return CostModel(
            self.weight * keep + 1.0,
            self.tokens * keep + tokens,
            self.seconds * keep + seconds,
            self.tokens2 * keep + tokens * tokens,
            self.product * keep + tokens * seconds,
        )

    def learn(self, tokens: int, seconds: float) -> CostModel:
        """Returns the model updated with one more batch."""
        return self._add(tokens, seconds, _FORGET)

    @property
    def token_s(self) -> float:
        """Seconds for each additional token; never negative."""
        spread = self.tokens2 - self.tokens * self.tokens / self.weight
        if spread <= 1e-9 * self.tokens2:
            return self.seconds / self.tokens
        slope = (self.product - self.tokens * self.seconds / self.weight) / spread
        return min(max(slope, 0.0), self.seconds / self.tokens)

    @property
    def fixed_s(self) -> float:
        """Seconds that a forward pass takes regardless of its size; never negative."""
        return max((self.seconds - self.token_s * self.tokens) / self.weight, 0.0)

    def batch_s(self, tokens: int) -> float:
        return self.fixed_s + self.token_s * tokens

    def tokens_in(self, seconds: float) -> int:
        """Tokens of the largest batch that runs within `seconds`; 0 if even the smallest takes longer."""
        if self.token_s <= 0.0:
            return sys.maxsize if self.fixed_s <= seconds else 0
        return max(int((seconds - self.fixed_s) / self.token_s), 0)

    def efficient_s(self, budget: int) -> float:
        """Seconds of a batch that has _EFFICIENT of the tokens per second of one of `budget` tokens."""
        fixed_s, least_s = self.fixed_s, (1 - _EFFICIENT) * self.token_s * budget
        return self.batch_s(int(_EFFICIENT * budget * fixed_s / (fixed_s + least_s))) if fixed_s else 0.0

    def best_tokens(self, *, backlog: bool = False, least: int = 256, most: int = 512) -> int:
        """Tokens of a batch, within [least, most]: the fewest at which the fixed cost is negligible.

        With a backlog, at least `most`, and up to twice as many while the forward pass stays short, because
        larger batches are slightly more efficient. A multiple of ROW, as `least` and `most` must be.
        """
        if backlog:
            tokens = min(max(self.tokens_in(_LONG_BATCH_S), most), 2 * most)
        elif self.token_s <= 0.0:
            tokens = most
        else:
            wanted = self.fixed_s * (1.0 - _FIXED_SHARE) / (_FIXED_SHARE * self.token_s)
            tokens = int(min(max(wanted, least), most))
        return tokens // ROW * ROW


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrival rate of entries per second, smoothed over about one second."""

    rate: float = 0.0
    at: float = 0.0

    def seen(self, entries: int, now: float) -> Arrivals:
        """Returns the rate updated with a claim of `entries` at `now` (seconds, any monotonic clock)."""
        if self.at == 0.0:
            return replace(self, at=now)
        share = min(gap := max(now - self.at, 1e-6), 1.0)
        return Arrivals(self.rate * (1.0 - share) + share * entries / gap, now)


@dataclass(frozen=True, slots=True)
class InteractiveTraffic:
    """Tracks the claims per second that hold interactive texts, and their typical text length in tokens."""

    typical: float = 32.0
    rate: float = 0.0
    at: float = float("-inf")

    def seen(self, lengths: Sequence[int], now: float) -> InteractiveTraffic:
        """Returns the state updated with interactive texts of these lengths, claimed at `now` (monotonic)."""
        typical = self.typical
        for length in lengths:
            typical += 0.05 * (length - typical)
        return InteractiveTraffic(typical, self._rate(now) + 1.0 / _LAST_S, now) if lengths else self

    def _rate(self, now: float) -> float:
        return self.rate * math.exp((self.at - now) / _LAST_S)

    def bulk_tokens(self, cost: CostModel, budget: int, now: float, wait_s: float) -> int:
        """Tokens of a batch that holds only bulk entries: the full budget without recent interactive traffic.

        An interactive text waits for the end of such a batch, for `wait_s` at most; if that is 0, somewhat
        longer than its own pass takes, or longer the less often such texts come.
        """
        if now - self.at > _INTERACTIVE_RECENT_S:
            return budget
        own_s = max(_UNNOTICED_S, _OWN_PASSES * cost.batch_s(int(self.typical)))
        longest_s = wait_s or max(own_s, min(cost.efficient_s(budget), _GAP_SHARE / self._rate(now)))
        handled = int(longest_s / _HANDLING_S * self.typical)
        tokens = max(int(self.typical), min(cost.tokens_in(longest_s), handled))
        return min(round_up(tokens, STEP), budget)


def keep_window_s(arrivals: Arrivals, cost: CostModel, typical_tokens: float, window_s: float) -> float:
    """Seconds to wait for more entries after the first one reaches an idle worker; 0 to start at once.

    Waiting delays the first entry, but each that joins the batch need not wait for the next one. It pays off
    if more than one is expected during a forward pass of typical size; the wait is at most half of it.
    """
    batch_s = cost.batch_s(int(typical_tokens))
    if arrivals.rate * batch_s <= 1.0:
        return 0.0
    return min(window_s, batch_s / 2)


@dataclass(frozen=True, slots=True)
class TokenizedEntry:
    """A claimed and tokenised entry that waits for its batch. Its length is the number of its tokens.

    `reason` says what triggered its claim.
    """

    entry: Entry
    tokens: Tokens
    tokenize_s: float
    claimed_at: float
    reason: Reason

    def __len__(self) -> int:
        return len(self.tokens.ids)


def claim_cost(held_tokens: int, budget: int, layout: Layout) -> int:
    """Cost to claim: the room of a batch beyond what is held; more if padding needs texts to choose from."""
    wanted = budget if layout == "packed" else 4 * budget
    return max(wanted + budget // 4 - held_tokens, 0)


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

    __slots__ = ("failed", "item", "rows")

    def __init__(self, item: TokenizedEntry) -> None:
        self.item = item
        self.rows: dict[int, list[float]] = {}
        self.failed = False


@dataclass(frozen=True, slots=True)
class TokenizedWindow(TokenizedEntry):
    """One window of a text. Its entry has its share of the text's cost."""

    text: LongText
    number: int


def split_texts(entries: Iterable[TokenizedEntry]) -> list[TokenizedEntry]:
    """Replaces each text that has windows by its windows."""
    split: list[TokenizedEntry] = []
    for item in entries:
        if not item.tokens.windows:
            split.append(item)
            continue
        text = LongText(item)
        count = len(item.tokens.windows)
        entry = replace(item.entry, cost=max(item.entry.cost // count, 1))
        about = item.tokenize_s / count, item.claimed_at, item.reason
        split += [
            TokenizedWindow(entry, tokens, *about, text, number)
            for number, tokens in enumerate(item.tokens.windows)
        ]
    return split


def ended_texts(
    batch: Iterable[tuple[TokenizedEntry, list[float]]], info: ModelInfo
) -> list[tuple[TokenizedEntry, list[float]]]:
    """The texts whose last window was in this batch, or that have no windows, with their scores."""
    assert info.windows is not None
    ended = []
    for item, scores in batch:
        if not isinstance(item, TokenizedWindow):
            ended.append((item, scores))
            continue
        rows = item.text.rows
        rows[item.number] = scores
        if len(rows) == len(item.text.item.tokens.windows):
            in_order = [rows[number] for number in sorted(rows)]
            ended.append((item.text.item, joined(in_order, info.windows, multi_label=info.multi_label)))
    return ended


def fail_texts(batch: Sequence[TokenizedEntry], results: Iterable[Result]) -> list[Result]:
    """Marks the texts of which a window failed. Returns the results with one for each text."""
    outcomes = dict(results)
    for item in batch:
        if isinstance(item, TokenizedWindow) and isinstance(outcomes.get(item.entry.id), Failure):
            item.text.failed = True
    return list(outcomes.items())


class ClaimedTexts:
    """Texts in order of arrival. Windows of long ones, and bulk entries, come after the others.

    Neither is passed over for long. Texts of most models have no windows; then `windows` is false.
    """

    def __init__(self, layout: Layout, *, windows: bool = False) -> None:
        self.texts: list[TokenizedEntry] = []
        self._layout = layout
        self._long = windows
        # Whether a window of an interactive entry leads the next batch, and the batches since a bulk entry.
        self._window_due = False
        self._without_bulk = 0

    @property
    def gives_way(self) -> bool:
        """Whether texts that arrive now should run before some of these."""
        return any(_is_bulk(item) or _is_window(item) for item in self.texts)

    @property
    def only_bulk(self) -> bool:
        """Whether no caller waits for these."""
        return all(map(_is_bulk, self.texts))

    @property
    def only_solo(self) -> bool:
        """Whether this is a text that runs alone."""
        return all(item.entry.solo for item in self.texts)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts))

    @property
    def ids(self) -> list[str]:
        """The ids of the entries, each once."""
        return list(dict.fromkeys(item.entry.id for item in self.texts))

    def add(self, entries: Iterable[TokenizedEntry]) -> None:
        """Adds texts, each that has windows as these."""
        self.texts += split_texts(entries) if self._long else entries

    def next_batch(self, budget: int, bulk_budget: Callable[[], int]) -> list[TokenizedEntry]:
        """Removes the next batch of about `budget` tokens and returns it; `bulk_budget` if all are bulk."""
        if not self.gives_way:
            return self._take(self._choose(self.texts, budget))
        if self.only_bulk:
            room = min(budget, bulk_budget())
            batch = self._take(self._choose(self.texts, room))
            if room < budget and self.texts:
                batch = [replace(item, reason="bulk") for item in batch]
        else:
            batch = self._take(self._mixed(budget))
        self._window_due = not any(map(_is_window, batch))
        self._without_bulk = 0 if any(map(_is_bulk, batch)) else self._without_bulk + 1
        return batch

    def _mixed(self, budget: int) -> list[TokenizedEntry]:
        """Texts, then windows, then bulk entries in their share: more of these would delay the others.

        An entry that has been passed over too often is in the batch, or is the batch if it needs all tokens.
        """
        bulk = [item for item in self.texts if _is_bulk(item)]
        windows = [item for item in self.texts if _is_window(item)]
        texts = [item for item in self.texts if not (_is_bulk(item) or _is_window(item))]
        own = [*windows[:1], *texts, *windows[1:]] if self._window_due else [*texts, *windows]
        if bulk and self._without_bulk >= _BULK_PASSED_OVER:
            batch = [*bulk[:1], *self._choose(own, budget - self._room(bulk[:1]))]
            return batch if self._room(batch) <= budget else bulk[:1]
        batch = self._choose(own, int(budget * (1 - _BULK_SHARE)))
        room = min(budget, round_up(math.ceil(self._room(batch) / (1 - _BULK_SHARE)), STEP))
        taken = 0
        while taken < len(bulk) and self._room([*batch, *bulk[: taken + 1]]) <= room:
            taken += 1
        return [*batch, *bulk[:taken]] if taken else self._choose(own, budget)

    def _take(self, batch: list[TokenizedEntry]) -> list[TokenizedEntry]:
        """Removes these, and returns them."""
        chosen = {id(item) for item in batch}
        self.texts = [item for item in self.texts if id(item) not in chosen]
        return batch

    def _choose(self, items: Sequence[TokenizedEntry], budget: int) -> list[TokenizedEntry]:
        return [items[index] for index in choose_batch([*map(len, items)], self._layout, budget)]

    def _room(self, items: Sequence[TokenizedEntry]) -> int:
        """Tokens of a batch that holds these."""
        if self._layout == "padded":
            return len(items) * max(map(len, items))
        return math.ceil(sum(map(len, items)) / FILL)

    def forget_failed(self) -> None:
        """Removes the windows of texts that have failed."""
        if self._long:
            self.texts = [
                item for item in self.texts if not (isinstance(item, TokenizedWindow) and item.text.failed)
            ]

    def limits(self, budget: int, bulk_budget: int) -> tuple[int, int]:
        """The tokens of a claim, and those of bulk entries among them (-1: none), beside what is held.

        While windows fill a batch, some interactive entries are claimed and one bulk entry for each eighth.
        """
        bulk = sum(len(item) for item in self.texts if _is_bulk(item))
        windows = sum(len(item) for item in self.texts if _is_window(item))
        cost = claim_cost(self.tokens - bulk, budget, self._layout)
        if windows >= budget:
            due = not bulk and self._without_bulk >= _BULK_PASSED_OVER - 1
            return max(cost, int(budget * _SHARE)) if windows < _MAX_BATCHES * budget else 0, 1 if due else -1
        return cost, min(cost, max(budget - bulk, 0)) if bulk < bulk_budget else -1


def _is_bulk(item: TokenizedEntry) -> bool:
    return item.entry.lane == "bulk"


def _is_window(item: TokenizedEntry) -> bool:
    """Whether this is a window of an interactive entry."""
    return isinstance(item, TokenizedWindow) and not _is_bulk(item)
