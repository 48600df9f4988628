"""DeBERTa's attention by content and relative position, as its config describes it.

The weight of token j for token i is the sum of three products: of their contents, of the content of i with
their distance (c2p), and of the content of j with it (p2c). The tokens of a text lie side by side,
so the distance of two of them is that of their places in the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Disentangled:
    """The config of relative positions. Distances that share a bucket share an embedding.

    The first `2 * span` rows of the table of relative positions are used. `buckets` is 0 if each distance has
    a separate bucket. `shared` says whether positions have the projections of contents.
    """

    span: int
    buckets: int
    farthest: int
    from_content: bool
    from_position: bool
    shared: bool
    normed: bool

    @property
    def terms(self) -> int:
        """The number of products that add up to a weight."""
        return 1 + self.from_content + self.from_position

    def rows(self, most: int) -> NDArray[np.int64]:
        """The row of the table for each distance i - j from -(most - 1) to most - 1."""
        distance = np.arange(1 - most, most)
        bucket = _log_buckets(distance, self.buckets, self.farthest) if self.buckets else distance
        return np.clip(bucket + self.span, 0, 2 * self.span - 1)


def read_disentangled(config: dict[str, Any]) -> Disentangled:
    """The relative positions of a config of DeBERTa-v2 or v3, with transformers' defaults."""
    kinds = config.get("pos_att_type") or ()
    names = [name.strip() for name in kinds.lower().split("|")] if isinstance(kinds, str) else kinds
    farthest = int(config.get("max_relative_positions", -1))
    if farthest < 1:
        farthest = int(config.get("max_position_embeddings", 512))
    buckets = max(int(config.get("position_buckets", -1)), 0)
    return Disentangled(
        span=buckets or farthest,
        buckets=buckets,
        farthest=farthest,
        from_content="c2p" in names,
        from_position="p2c" in names,
        shared=bool(config.get("share_att_key", False)),
        normed="layer_norm" in str(config.get("norm_rel_ebd", "none")).lower(),
    )


def _log_buckets(distance: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """Distances up to half of `buckets` as they are, and farther ones in logarithmic steps."""
    half = buckets // 2
    size = np.abs(distance)
    steps = np.log(np.maximum(size, half).astype(np.float32) / np.float32(half))
    steps = steps / np.log(np.float32((farthest - 1) / half)) * np.float32(half - 1)
    far = np.ceil(steps).astype(np.int64) + half
    return np.where(size <= half, distance, far * np.sign(distance))
