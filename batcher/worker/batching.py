"""The batching policy: pure functions and small values, the clock passed in. No Redis, no sleeping.

A forward pass costs about `fixed_s + token_s x tokens`. Everything here follows from that line: how many
tokens a pass should have, which texts share one, and whether waiting for company is worth it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from model_store import Layout
from model_store.layout import FILL, ROW

Reason = Literal["full", "window", "idle", "solo"]

# Weight of the newest pass in the cost model: about the last 50 count.
_FORGET = 0.02
# So long after the last interactive text, bulk has the worker for itself.
_COMPANY_S = 60.0
# Nobody notices that a pass of this length went before theirs.
_UNNOTICED_S = 0.002
# What a text costs a worker and Redis beside its share of the pass, about.
_HANDLING_S = 0.0003
# A pass is long enough once its fixed cost is this share of it; longer ones only add latency.
_FIXED_SHARE = 0.04
# With a backlog everyone waits for passes before theirs, and the fewer of them the better. Who comes next
# waits for half of this on the average; where somebody goes first, passes are shorter: see claim.lua.
_LONG_PASS_S = 0.1


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a pass over n computed tokens, as a line learnt from passes that were run.

    Holds exponentially forgotten moments of (tokens, seconds); least squares gives the line. The moments
    start from two pretended passes, so that the line is sane before anything was measured.
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
        """The model after one more pass."""
        return self._add(tokens, seconds, _FORGET)

    @property
    def token_s(self) -> float:
        """Seconds for each further token; never negative."""
        spread = self.tokens2 - self.tokens * self.tokens / self.weight
        if spread <= 1e-9 * self.tokens2:
            return self.seconds / self.tokens
        slope = (self.product - self.tokens * self.seconds / self.weight) / spread
        return min(max(slope, 0.0), self.seconds / self.tokens)

    @property
    def fixed_s(self) -> float:
        """Seconds of a pass before its first token; never negative."""
        return max((self.seconds - self.token_s * self.tokens) / self.weight, 0.0)

    def pass_s(self, tokens: int) -> float:
        return self.fixed_s + self.token_s * tokens

    def tokens_in(self, seconds: float) -> int:
        """The longest pass that takes no longer, in tokens; 0 where none is that short."""
        if self.token_s <= 0.0:
            return sys.maxsize if self.fixed_s <= seconds else 0
        return max(int((seconds - self.fixed_s) / self.token_s), 0)

    def best_tokens(self, *, backlog: bool = False, least: int = 256, most: int = 512) -> int:
        """Tokens of a pass, within [least, most]: the fewest whose fixed cost hardly counts.

        With a backlog `most`, and up to twice as many as long as the pass stays short: larger ones gain a
        little. In whole rows, of which `least` and `most` are multiples.
        """
        if backlog:
            tokens = min(max(self.tokens_in(_LONG_PASS_S), most), 2 * most)
        elif self.token_s <= 0.0:
            tokens = most
        else:
            wanted = self.fixed_s * (1.0 - _FIXED_SHARE) / (_FIXED_SHARE * self.token_s)
            tokens = int(min(max(wanted, least), most))
        return tokens // ROW * ROW


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How fast entries come, per second, smoothed over about a second."""

    rate: float = 0.0
    at: float = 0.0

    def seen(self, entries: int, now: float) -> Arrivals:
        """After a claim of `entries` at `now` (seconds, any monotonic clock)."""
        if self.at == 0.0:
            return replace(self, at=now)
        gap = max(now - self.at, 1e-6)
        share = min(gap, 1.0)
        return Arrivals(self.rate * (1.0 - share) + share * entries / gap, now)


def keep_window_s(arrivals: Arrivals, cost: CostModel, typical_tokens: float, window_s: float) -> float:
    """Seconds to wait for company after the first entry came to an idle worker; 0 to start at once.

    Waiting delays the one that is there by w, and spares each one that joins the rest of a pass. It pays
    when more than one is expected to come during a pass of typical size; it never lasts longer than that.
    """
    pass_s = cost.pass_s(int(typical_tokens))
    if arrivals.rate * pass_s <= 1.0:
        return 0.0
    return min(window_s, pass_s / 2)


def next_pass(lengths: Sequence[int], layout: Layout, budget: int) -> list[int]:
    """Which of the held texts the next pass runs: indices into `lengths`, at least one if any is held.

    packed: in order; one that no longer fits is passed over, and comes first in the next pass.
    padded: the neighbours in length of the text that came first, so that it never waits for a better fit.
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
    """Grows a run around `at` of the sorted `order`, shorter texts first: they pad the least."""
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
    """Whether somebody waits on a socket these days, and how long their texts are, in tokens."""

    typical: float = 32.0
    at: float = float("-inf")

    def seen(self, lengths: Sequence[int], now: float) -> InteractiveTraffic:
        """After a claim of interactive texts of these lengths at `now` (seconds, any monotonic clock)."""
        typical = self.typical
        for length in lengths:
            typical += 0.05 * (length - typical)
        return InteractiveTraffic(typical, now) if lengths else self

    def bulk_tokens(self, cost: CostModel, budget: int, now: float) -> int:
        """Tokens of a pass that only bulk entries share: all of the budget while nobody else is about.

        Whoever comes in the middle of such a pass waits for its end. If it takes no longer than a typical
        text of theirs, or not long enough to be noticed, they wait at most twice as long as they would alone.
        """
        if now - self.at > _COMPANY_S:
            return budget
        handled = int(_UNNOTICED_S / _HANDLING_S * self.typical)
        return min(max(int(self.typical), min(cost.tokens_in(_UNNOTICED_S), handled)), budget)


def claim_cost(held_tokens: int, budget: int, layout: Layout) -> int:
    """Cost to claim: what one pass takes beyond what is held; more where sorting needs a choice."""
    wanted = budget if layout == "packed" else 4 * budget
    return max(wanted + budget // 4 - held_tokens, 0)
