"""What a process reads of the whole queue."""

from __future__ import annotations

from dataclasses import replace

from batcher.core.snapshot import NO_SNAPSHOT, Sweep


def test_a_snapshot_that_redis_has_lost_counts_nothing() -> None:
    lost = Sweep("api", 3).read([0, 2, b"7", [], [], []])
    assert lost == replace(NO_SNAPSHOT, recovered=2, cursor=b"7")
