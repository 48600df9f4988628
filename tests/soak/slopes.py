"""Whether a series grows: an upper bound of its slope that holds for correlated samples.

Samples of a process are correlated: an allocator keeps what a burst needed, a table fills and is emptied.
The bound of an ordinary regression over thousands of them is far too narrow. So the method of batch means
is used (Law, *Simulation Modeling and Analysis*, 9.5.3): the second half of the run is cut into `BATCHES`
parts that are longer than the correlations, a least-squares line goes through the mean of each part, and
the bound comes from Student's distribution with BATCHES - 2 degrees of freedom. If neighbouring means are
still correlated, by r > 0, the standard error is multiplied by sqrt((1 + r) / (1 - r)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

BATCHES = 15
# One-sided, 95 %, of Student's t with 13 degrees of freedom.
QUANTILE = 1.771
LIMIT = 1.0  # % an hour

Verdict = Literal["flat", "grows", "unclear"]


@dataclass(frozen=True, slots=True)
class Slope:
    """In % of the mean of the second half, an hour. `lower` and `upper` are one-sided bounds of 95 % each."""

    mean: float
    most: float
    percent: float
    lower: float
    upper: float

    @property
    def verdict(self) -> Verdict:
        """flat if the upper bound is below the limit; else whether the line surely rises."""
        if self.upper < LIMIT:
            return "flat"
        return "grows" if self.lower > 0 else "unclear"


def slope(samples: Sequence[tuple[float, float]], seconds: float) -> Slope:
    """Of (s since the start, value), over the second half of `seconds`. ValueError if a part is empty."""
    times, values = np.array(samples, dtype=float).T
    half = seconds / 2
    part = np.floor((times - half) / half * BATCHES).astype(int)
    numbers = [np.flatnonzero(part == number) for number in range(BATCHES)]
    if not all(len(found) for found in numbers):
        raise ValueError("a part of the second half has no sample")
    hours = np.array([times[found].mean() for found in numbers]) / 3600
    means = np.array([values[found].mean() for found in numbers])
    mean, most = float(means.mean()), float(values.max())
    if mean == 0:
        return Slope(0.0, most, 0.0, 0.0, 0.0)
    around = hours - hours.mean()
    spread = float(around @ around)
    rise = float(around @ means) / spread
    left = means - mean - rise * around
    error = math.sqrt(float(left @ left) / (BATCHES - 2) / spread) * _inflation(left)
    lower, middle, upper = (100 * (rise + sign * QUANTILE * error) / mean for sign in (-1, 0, 1))
    return Slope(mean, most, middle, lower, upper)


def _inflation(left: np.ndarray) -> float:
    """What correlated residuals add to the standard error, as a factor of 1 or more."""
    square = float(left @ left)
    r = float(left[1:] @ left[:-1]) / square if square else 0.0
    return math.sqrt((1 + r) / (1 - r)) if r > 0 else 1.0
