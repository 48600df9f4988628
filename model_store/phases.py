"""Logs what the loading of a model is doing, with the time since it began: people wait for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
_loading = threading.local()


def begin(on_phase: Callable[[str], None] | None = None) -> None:
    """From now on, this thread loads another model. `on_phase` is called with what it does next."""
    _loading.began = time.monotonic()
    _loading.on_phase = on_phase


def phase(doing: str) -> None:
    """Logs what this thread does next."""
    seconds = time.monotonic() - getattr(_loading, "began", time.monotonic())
    log.info("%.1f s: %s", seconds, doing, extra={"action": "model.phase", "seconds": round(seconds, 2)})
    if on_phase := getattr(_loading, "on_phase", None):
        on_phase(doing)
