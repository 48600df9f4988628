"""`python -m tests.partitions.planted FAULT COMMAND`: `millrace COMMAND` with a fault that the run must find.

late    a connection to the master of sentinels is kept after a reply that was too late (finding 27)
mixed   after an outage, a worker sends the results of a batch in the wrong order
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from batcher.core.commands import Complete

FAULTS = ("late", "mixed")


def inject(fault: str) -> None:
    """Breaks the product in this process."""
    if fault == "late":
        _inject_late()
    elif fault == "mixed":
        _inject_mixed()
    else:
        raise SystemExit(f"no such fault: {fault}")


def _inject_late() -> None:
    from batcher.connection.clients import _ClosesOnTimeout

    del _ClosesOnTimeout.read_response


def _inject_mixed() -> None:
    from batcher.connection.outage import Outage
    from batcher.worker.queue import WorkerQueue

    found, command, lost = Outage.found, WorkerQueue.complete_command, [False]

    def after_outage(self: Outage) -> None:
        lost[0] = lost[0] or not self.over
        found(self)

    def mix(self: WorkerQueue, results: Iterable[tuple[str, bytes]], idle: bool = False) -> Complete:
        pairs = list(results)
        if lost[0] and pairs:
            entries, values = zip(*pairs, strict=True)
            pairs = list(zip(entries, reversed(values), strict=True))
        return command(self, pairs, idle)

    Outage.found = after_outage  # type: ignore[method-assign]
    WorkerQueue.complete_command = mix  # type: ignore[method-assign]


if __name__ == "__main__":
    inject(sys.argv.pop(1))
    from millrace.__main__ import main

    sys.exit(main())
