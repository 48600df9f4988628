"""`millrace worker` whose stub has 151 labels, as models of intents have: `python -m tests.cost.worker`."""

from __future__ import annotations

import sys

import model_store.stub as stub
from millrace.__main__ import main

LABELS = tuple(f"label_{number:03d}" for number in range(151))


def _scores(digest: int) -> list[float]:
    """Different ones, which are not in order."""
    return [round((digest * (number + 1) % 997) / 150_000, 7) for number in range(len(LABELS))]


if __name__ == "__main__":
    stub.LABELS = LABELS
    stub._scores = _scores  # type: ignore[assignment]
    sys.exit(main(["worker"]))
