"""One process of the service that the cost tests measure: `python -m tests.cost.process COMMAND`.

The stub has 151 labels, as models of intents have. A question to other processes is open for 0.2 s instead
of 3 s: waiting costs no processor time.
"""

from __future__ import annotations

import sys

import model_store.stub as stub
from api.admin.traces import Traces
from millrace.__main__ import main

LABELS = tuple(f"label_{number:03d}" for number in range(151))


def _scores(digest: int) -> list[float]:
    """Different ones, which are not in order."""
    return [round((digest * (number + 1) % 997) / 150_000, 7) for number in range(len(LABELS))]


if __name__ == "__main__":
    stub.LABELS = LABELS
    stub._scores = _scores  # type: ignore[assignment]
    Traces.open_s = 0.2
    sys.exit(main(sys.argv[1:]))
