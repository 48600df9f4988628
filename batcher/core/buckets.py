"""Bounds of duration histograms, derived from the budget: what is slower than that has been given up."""

from __future__ import annotations

# The default of the API's `default_budget_s`; workers do not know another.
BUDGET_S = 10.0


def duration_bounds(budget_s: float = BUDGET_S) -> tuple[float, ...]:
    """1, 2.5, 5, 10, ... from a tenth of a millisecond to the default budget, which is a bound itself."""
    steps = [step * 10.0**power for power in range(-4, 3) for step in (1.0, 2.5, 5.0)]
    return (*(round(step, 6) for step in steps if step < budget_s), float(budget_s))
