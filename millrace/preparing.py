"""The lines in which commands say what workers that load a model are doing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

# How long to wait before repeating the same phase.
REPEAT_S = 10.0


class PreparingLines:
    """Yields a line for each worker that is in another phase than before, or still in one after a while."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[str, float]] = {}

    def due(self, preparing: Sequence[dict[str, Any]]) -> Iterator[str]:
        """`preparing` is what `GET /admin/models` answers under this name."""
        for one in preparing:
            phase, at = self._printed.get(one["worker"], ("", 0.0))
            now = time.monotonic()
            if one["phase"] != phase or now - at > REPEAT_S:
                self._printed[one["worker"]] = one["phase"], now
                doing = f"preparing {one['reference']} for {one['seconds']:.0f} s"
                yield f"{one['worker']}: {doing}: {one['phase']}"
