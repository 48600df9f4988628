"""The in-process cache: an LRU of pre-encoded predictions in front of the shared one.

Keyed by (revision, text) itself: a hit costs no digest. Bounded in entries and in bytes, and nothing lives
longer here than the shared cache said.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from batcher.messages import Prediction

# Of one entry: key tuple, Held, float, size, and its share of the dictionary. Measured with tracemalloc.
OVERHEAD_BYTES = 350


@dataclass(frozen=True, slots=True)
class CachedPrediction:
    """One remembered prediction. `expires_at` by the monotonic clock, `size` in bytes, all counted."""

    fragment: bytes
    truncated: bool
    expires_at: float
    size: int


class LocalCache:
    """An LRU. `max_entries` 0 switches it off: every lookup misses, nothing is kept."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.bytes = 0
        self.evictions = 0
        self._max_entries = max_entries if max_bytes else 0
        self._max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, str], CachedPrediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, revision: str, texts: Sequence[str], tenant: str = "") -> list[CachedPrediction | None]:
        """What is known of each text, in order; of a tenant with results of its own, only those."""
        if tenant:
            texts = [_own(tenant, text) for text in texts]
        now = monotonic()
        held_of, used = self._held.get, self._held.move_to_end
        found: list[CachedPrediction | None] = []
        for text in texts:
            key = (revision, text)
            held = held_of(key)
            if held is None:
                found.append(None)
            elif held.expires_at > now:
                used(key)
                found.append(held)
            else:
                self._drop(key)
                found.append(None)
        return found

    def put(self, text: str, prediction: Prediction, life_s: float, tenant: str = "") -> None:
        """Remembers what `prediction.revision` says of `text` for `life_s` seconds at most."""
        if tenant:
            text = _own(tenant, text)
        size = sys.getsizeof(text) + sys.getsizeof(prediction.fragment) + OVERHEAD_BYTES
        if not self._max_entries or size > self._max_bytes or life_s <= 0:
            return
        key = (prediction.revision, text)
        self._drop(key)
        while len(self._held) >= self._max_entries or self.bytes + size > self._max_bytes:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= oldest.size
            self.evictions += 1
        self._held[key] = CachedPrediction(
            prediction.fragment, prediction.truncated, monotonic() + life_s, size
        )
        self.bytes += size

    def _drop(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.bytes -= held.size


def _own(tenant: str, text: str) -> str:
    """The text as a tenant's own. Names of tenants hold no line break, so no two pairs are alike."""
    return f"{tenant}\n{text}"
