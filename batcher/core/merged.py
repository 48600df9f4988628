"""One snapshot of all shards of a queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from batcher.core.pauses import Pause
from batcher.core.publications import newest
from batcher.core.snapshot import Fallback, LaneDepth, Snapshot

_SUMMED = ("workers", "solo", "in_flight", "worked", "recovered", "forgotten")


def merge(shards: Sequence[Snapshot]) -> Snapshot:
    """The sums over the snapshots of all shards. Ages are the oldest, and memory that of the fullest.

    The model is that of the first shard that knows one, and `swept` is that of the first shard: one process
    keeps the history of the service.
    """
    counts = {name: sum(getattr(shard, name) for shard in shards) for name in _SUMMED}
    return Snapshot(
        model=next((shard.model for shard in shards if shard.model is not None), None),
        rate=sum(shard.rate for shard in shards),
        interactive=_lane([shard.interactive for shard in shards]),
        bulk=_lane([shard.bulk for shard in shards]),
        fallback=_fallback([shard.fallback for shard in shards if shard.fallback is not None]),
        memory=max((shard.memory for shard in shards), key=lambda memory: memory.share),
        swept=shards[0].swept,
        pauses=merge_pauses([shard.pauses for shard in shards]),
        holds=shards[0].holds,
        publications=newest(shard.publications for shard in shards),
        models=sorted({name for shard in shards for name in shard.models}),
        question=next((shard.question for shard in shards if shard.question is not None), None),
        **counts,
    )


def _lane(depths: Sequence[LaneDepth]) -> LaneDepth:
    entries = sum(depth.entries for depth in depths)
    cost = sum(depth.cost for depth in depths)
    return LaneDepth(entries, cost, max(depth.oldest_ms for depth in depths))


def merge_pauses(shards: Sequence[Mapping[str, Pause]]) -> Mapping[str, Pause]:
    """For each lane, the pause that ends last: a shard that was down may not know of it."""
    lanes = {lane for pauses in shards for lane in pauses}
    return {
        lane: max((pauses[lane] for pauses in shards if lane in pauses), key=lambda pause: pause.until)
        for lane in sorted(lanes)
    }


def _fallback(fallbacks: Sequence[Fallback]) -> Fallback | None:
    if not fallbacks:
        return None
    return replace(fallbacks[0], workers=sum(fallback.workers for fallback in fallbacks))
