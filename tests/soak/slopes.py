"""Whether a series grows: an upper bound of its slope that holds for correlated samples.

Samples of a process are correlated: an allocator keeps what a burst needed, a table fills and is emptied.
The bound of an ordinary regression over thousands of them is far too narrow. So the method of batch means
is used (Law, *Simulation Modeling and Analysis*, 9.5.3): the second half of the run is cut into parts that
are longer than the correlations, a least-squares line goes through the mean of each part, and the bound
comes from Student's distribution. If neighbouring means are still correlated, by r > 0, the standard error
is multiplied by sqrt((1 + r) / (1 - r)).

Of what is counted (descriptors, threads, tasks, clients) some stay, and some come and go with requests and
steps of a cycle, or are made when they are first needed, so a count of 20 that is 21 at times has a bound of
several per cent. What leaks stays, and raises the least of each part. So the line of a count goes through
the least of each part, and its parts are three times as long, so that everything happens in each of them
that happens only in some cycles. Keys are so many that their mean says more.

A worker that is replaced lives for one cycle and is measured once, at its end. Each sample is of another
process, so samples are not correlated, and none has to warm up: the line goes through those of the whole run,
without the first, whose process is older than the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# What is taken from the samples: the mean or the least of each part, or each sample.
Statistic = Literal["mean", "least", "each"]
# Into how many parts the second half is cut.
PARTS: dict[Statistic, int] = {"mean": 15, "least": 5}
# One-sided, 95 %, of Student's t with two degrees of freedom fewer; 29 are the processes of 30 cycles.
QUANTILE = {29: 1.703, 15: 1.771, 5: 2.353}
LIMIT = 1.0  # % an hour

Verdict = Literal["flat", "grows", "unclear"]


@dataclass(frozen=True, slots=True)
class Slope:
    """In % of `level` an hour; `lower` and `upper` are one-sided bounds of 95 % each.

    `level` is the mean of what was taken of each part, `most` the largest sample of the run.
    """

    level: float
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


def statistic(name: str) -> Statistic:
    """What the line of a series goes through: the means of memory and keys, the least of other counts."""
    if ", at its end" in name:
        return "each"
    return "mean" if name.endswith(("MiB", ": keys")) else "least"


def slope(samples: Sequence[tuple[float, float]], seconds: float, taken: Statistic = "mean") -> Slope:
    """Of (s since the start, value), over the second half of `seconds`, or with "each" over all of them.

    `taken` says what the line goes through. Raises ValueError if a part is empty, or if the number of samples
    of which each is taken is not that of a run.
    """
    times, values = np.array(samples, dtype=float).T
    moments, levels = (times[1:], values[1:]) if taken == "each" else _parts(times, values, seconds, taken)
    if len(levels) not in QUANTILE:
        raise ValueError(f"a run has no {len(levels)} samples of this kind")
    level, most = float(levels.mean()), float(values.max())
    if level == 0:
        return Slope(0.0, most, 0.0, 0.0, 0.0)
    around = (moments - moments.mean()) / 3600
    spread = float(around @ around)
    rise = float(around @ levels) / spread
    left = levels - level - rise * around
    error = math.sqrt(float(left @ left) / (len(levels) - 2) / spread) * _inflation(left)
    lower, middle, upper = (
        100 * (rise + sign * QUANTILE[len(levels)] * error) / level for sign in (-1, 0, 1)
    )
    return Slope(level, most, middle, lower, upper)


def _parts(
    times: np.ndarray, values: np.ndarray, seconds: float, taken: Statistic
) -> tuple[np.ndarray, np.ndarray]:
    """The mean time of each part of the second half, and what is taken of it."""
    half, parts = seconds / 2, PARTS[taken]
    part = np.floor((times - half) / half * parts).astype(int)
    numbers = [np.flatnonzero(part == number) for number in range(parts)]
    if not all(len(found) for found in numbers):
        raise ValueError("a part of the second half has no sample")
    take = np.mean if taken == "mean" else np.min
    return (
        np.array([times[found].mean() for found in numbers]),
        np.array([take(values[found]) for found in numbers]),
    )


def _inflation(left: np.ndarray) -> float:
    """What correlated residuals add to the standard error, as a factor of 1 or more."""
    square = float(left @ left)
    r = float(left[1:] @ left[:-1]) / square if square else 0.0
    return math.sqrt((1 + r) / (1 - r)) if r > 0 else 1.0
