"""Texts that are so long that they would take longer than the budget of their request."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.snapshot import ModelRecord, needs_s
from batcher.errors import TextTooSlow
from batcher.hub.dispatcher import estimate_cost


def check_time(texts: Sequence[str], model: ModelRecord, budget_s: float) -> None:
    """Raises TextTooSlow for a text whose forward pass alone would take longer than the budget."""
    for text in texts:
        tokens = min(estimate_cost(text), model.longest)
        if (seconds := needs_s(tokens, model.long_s)) > budget_s:
            raise TextTooSlow(
                f"a text of {len(text)} characters has about {tokens} tokens, which take about {seconds:.0f} "
                f"s, and the budget is {round(budget_s, 1):g} s: send a part of it, a longer Prefer: wait or "
                "a job"
            )
