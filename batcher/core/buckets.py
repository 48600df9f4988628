"""Bucket bounds of duration histograms. The budget is the last one: slower requests have timed out."""

from __future__ import annotations

# The default of the API's `default_budget_s`. Workers do not know the configured value.
BUDGET_S = 10.0


def duration_bounds(budget_s: float = BUDGET_S) -> tuple[float, ...]:
    """1, 2.5, 5, 10, ... from a tenth of a millisecond up to the budget, which is always the last bound."""
    steps = [step * 10.0**power for power in range(-4, 3) for step in (1.0, 2.5, 5.0)]
    return (*(round(step, 6) for step in steps if step < budget_s), float(budget_s))
