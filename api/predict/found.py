"""What a lookup has found for one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from api.predict.local_cache import CachedPrediction
from batcher.messages import Prediction


@dataclass(slots=True)
class LookupResult:
    """Predictions by text, the texts computed for this request, and the time spent on caches.

    `ids` are those of the texts that the in-process cache did not know, and `local` counts the others.
    `asked` texts went to the queue at `asked_at` (perf_counter).
    """

    by_text: dict[str, Prediction] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    cache_s: float = 0.0
    ids: Mapping[str, str] = field(default_factory=dict)
    local: int = 0
    asked: int = 0
    asked_at: float = 0.0

    def add(self, part: LookupResult, cache_s: float) -> None:
        """Adds what was found for other texts of the request. `cache_s`: time on caches of both."""
        self.by_text |= part.by_text
        self.computed |= part.computed
        self.cache_s = cache_s
        self.ids = {**self.ids, **part.ids}
        self.local += part.local
        if part.asked:
            self.asked_at = min(self.asked_at, part.asked_at) if self.asked else part.asked_at
            self.asked += part.asked

    def tokens(self, texts: Sequence[str], cached: Sequence[CachedPrediction | None]) -> int:
        """The tokens of all texts of the request, of which the in-process cache knew some."""
        return sum([(known or self.by_text[text]).tokens for text, known in zip(texts, cached, strict=True)])
