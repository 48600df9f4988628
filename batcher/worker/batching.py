"""The batching policy: pure functions and small values; the clock is passed in. No Redis, no sleeping.

A forward pass takes about `fixed_s + token_s x tokens`. Everything here follows from this linear model: how
many tokens a batch should have, which texts share one, and whether to wait for more texts to arrive.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from model_store import Layout
from model_store.rows import FILL, ROW

Reason = Literal["full", "window", "idle", "solo"]

# Weight of the newest batch in the cost model, which makes about the last 50 count.
_FORGET = 0.02
# After this many seconds without interactive traffic, bulk batches may use the full budget.
_INTERACTIVE_RECENT_S = 60.0
# A caller does not notice a delay this short.
_UNNOTICED_S = 0.002
# Approximate time that the worker and Redis spend on a text outside the forward pass.
_HANDLING_S = 0.0003
# A batch is large enough once its fixed cost is this share of the total; larger ones only add latency.
_FIXED_SHARE = 0.04
# With a backlog, texts wait for earlier batches, so fewer and larger batches are better. A new text waits for
# half of this on average. Batches are shorter while an entry has priority: see claim.lua.
_LONG_BATCH_S = 0.1


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

    def pass_s(self, tokens: int) -> float:
        return self.fixed_s + self.token_s * tokens

    def tokens_in(self, seconds: float) -> int:
        """Tokens of the largest batch that runs within `seconds`; 0 if even the smallest takes longer."""
        if self.token_s <= 0.0:
            return sys.maxsize if self.fixed_s <= seconds else 0
        return max(int((seconds - self.fixed_s) / self.token_s), 0)

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
        gap = max(now - self.at, 1e-6)
        share = min(gap, 1.0)
        return Arrivals(self.rate * (1.0 - share) + share * entries / gap, now)


def keep_window_s(arrivals: Arrivals, cost: CostModel, typical_tokens: float, window_s: float) -> float:
    """Seconds to wait for more entries after the first one reaches an idle worker; 0 to start at once.

    Waiting delays the first entry, but each entry that joins the batch need not wait for the next one. It
    pays off when more than one entry is expected during a forward pass of typical size. The wait is at most
    half of such a pass.
    """
    pass_s = cost.pass_s(int(typical_tokens))
    if arrivals.rate * pass_s <= 1.0:
        return 0.0
    return min(window_s, pass_s / 2)


def next_pass(lengths: Sequence[int], layout: Layout, budget: int) -> list[int]:
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


@dataclass(frozen=True, slots=True)
class InteractiveTraffic:
    """Tracks when interactive traffic was last seen, and its typical text length in tokens."""

    typical: float = 32.0
    at: float = float("-inf")

    def seen(self, lengths: Sequence[int], now: float) -> InteractiveTraffic:
        """Returns the state updated with interactive texts of these lengths, claimed at `now` (monotonic)."""
        typical = self.typical
        for length in lengths:
            typical += 0.05 * (length - typical)
        return InteractiveTraffic(typical, now) if lengths else self

    def bulk_tokens(self, cost: CostModel, budget: int, now: float) -> int:
        """Tokens of a batch that holds only bulk entries: the full budget without recent interactive traffic.

        An interactive text that arrives during such a batch waits for its end. The batch is therefore limited
        to the size of a typical interactive text, or to a duration that goes unnoticed, so that the
        text takes at most about twice as long as it would on an idle worker.
        """
        if now - self.at > _INTERACTIVE_RECENT_S:
            return budget
        handled = int(_UNNOTICED_S / _HANDLING_S * self.typical)
        return min(max(int(self.typical), min(cost.tokens_in(_UNNOTICED_S), handled)), budget)


def claim_cost(held_tokens: int, budget: int, layout: Layout) -> int:
    """Cost to claim: the room of a batch beyond what is held; more if padding needs texts to choose from."""
    wanted = budget if layout == "packed" else 4 * budget
    return max(wanted + budget // 4 - held_tokens, 0)
