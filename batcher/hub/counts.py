"""What the hub counts for the metrics of its process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HubCounts:
    """All count entries, except `round_trips`."""

    queued: int = 0
    joined: int = 0
    shed: int = 0
    expired: int = 0
    cancelled: int = 0
    hinted: int = 0
    polled: int = 0
    asked_again: int = 0
    malformed: int = 0
    recovered: int = 0
    round_trips: int = 0
