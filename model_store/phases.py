"""Logs what the loading of a model is doing, with the time since it began: people wait for it."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger(__name__)
_loading = threading.local()


def begin() -> None:
    """From now on, this thread loads another model."""
    _loading.began = time.monotonic()


def phase(doing: str) -> None:
    """Logs what this thread does next."""
    seconds = time.monotonic() - getattr(_loading, "began", time.monotonic())
    log.info("%.1f s: %s", seconds, doing, extra={"action": "model.phase", "seconds": round(seconds, 2)})
