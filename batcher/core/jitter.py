"""Random factors that keep many processes from acting at the same moment."""

from __future__ import annotations

from random import SystemRandom

# Not the generator of `random`: a program that seeds that one would make all its processes act in step.
_random = SystemRandom()


def jitter(lowest: float, highest: float) -> float:
    """Returns a random factor from `lowest` to `highest`."""
    return _random.uniform(lowest, highest)
