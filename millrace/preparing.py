"""The lines in which commands say what they wait for, and what workers that load a model are doing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

# How long to wait before repeating the same line.
REPEAT_S = 10.0


class Changes:
    """Says which lines are due: those of a state that differs from the last one printed, or lasts."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[object, float]] = {}

    def due(self, about: str, state: object) -> bool:
        """Whether to print the state of a thing now, which counts as printed then."""
        last, at = self._printed.get(about, (None, 0.0))
        due = state != last or time.monotonic() - at > REPEAT_S
        if due:
            self.note(about, state)
        return due

    def note(self, about: str, state: object) -> None:
        """Counts a state as printed."""
        self._printed[about] = state, time.monotonic()

    def preparing(self, workers: Sequence[dict[str, Any]]) -> Iterator[str]:
        """Yields a line for each worker that is in another phase than before, or still in one after a while.

        `workers` are what `GET /admin/models` answers under `preparing`.
        """
        for one in workers:
            if self.due(one["worker"], one["phase"]):
                doing = f"preparing {one['reference']} for {one['seconds']:.0f} s"
                yield f"{one['worker']}: {doing}: {one['phase']}"
