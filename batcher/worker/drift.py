"""Compares incoming texts with those the model was evaluated on, over a sliding window.

A slice closes once it has SLICE_TEXTS texts and is SLICE_S old; the window is the last SLICES slices. It
therefore spans at least 2000 texts and one minute, so that neither a quiet night nor a single unusual job
raises an alert. Texts that are read in windows are left out of it, as they are of the reference.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

from batcher.worker.inference import Scored
from model_store import ModelInfo, Tokens
from model_store.drift_reference import FEATURES, MIN_TEXTS, DriftReference, Feature, measure, psi

SLICE_TEXTS = 100
SLICE_S = 3.0
SLICES = 20
# Histogram bounds in /metrics for the features that are not booleans.
BOUNDS: dict[Feature, tuple[float, ...]] = {
    "confidence": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
    "entropy": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "tokens": (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 511),
}


class Tally:
    """Counts the values of one feature by bin since the start."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class DriftWatch:
    """Counts texts and predictions of one model; compares the latest with its reference, if it has one.

    Call `add` only from one thread; the rest is thread-safe. `clock` returns seconds.
    """

    def __init__(self, info: ModelInfo, clock: Callable[[], float] = time.monotonic) -> None:
        self.info = info
        self.reference: DriftReference | None = info.reference
        self.labels = [0] * len(info.labels)
        self.tallies = {feature: Tally(bounds) for feature, bounds in BOUNDS.items()}
        self.truncated = 0
        self.unknown_pieces = 0
        self._edges = [self.reference.features[name].edges for name in FEATURES] if self.reference else []
        self._clock = clock
        self._lock = threading.Lock()
        self._slices: deque[list[list[int]]] = deque(maxlen=SLICES)
        self._slice = self._empty()
        self._slice_texts = 0
        self._slice_began = clock()

    def add(self, scored: Sequence[Scored]) -> None:
        """Adds the texts of one batch and their scores."""
        with self._lock:
            for tokens, scores in scored:
                self._add(tokens, scores)
            self._slice_texts += sum(not tokens.part for tokens, _ in scored)
            now = self._clock()
            if self._slice_texts >= SLICE_TEXTS and now - self._slice_began >= SLICE_S:
                self._slices.append(self._slice)
                self._slice = self._empty()
                self._slice_texts = 0
                self._slice_began = now

    def _add(self, tokens: Tokens, scores: Sequence[float]) -> None:
        values = measure(tokens, scores, multi_label=self.info.multi_label)
        label, confidence, entropy, length, truncated, _ = values
        self.labels[int(label)] += 1
        self.tallies["confidence"].add(confidence)
        self.tallies["entropy"].add(entropy)
        self.tallies["tokens"].add(length)
        self.truncated += int(truncated)
        self.unknown_pieces += tokens.unknown
        if tokens.part:
            return
        for edges, counts, value in zip(self._edges, self._slice, values, strict=False):
            counts[bisect_left(edges, value)] += 1

    def window(self) -> tuple[int, dict[Feature, float]]:
        """Texts in the window, and the PSI of each feature; empty below MIN_TEXTS texts."""
        if self.reference is None:
            return 0, {}
        with self._lock:
            slices = [*self._slices, self._slice]
            sums = [
                [sum(column) for column in zip(*counts, strict=True)] for counts in zip(*slices, strict=True)
            ]
        texts = sum(sums[0])
        if texts < MIN_TEXTS:
            return texts, {}
        expected = self.reference.features
        return texts, {
            name: psi(expected[name].counts, seen) for name, seen in zip(FEATURES, sums, strict=True)
        }

    def _empty(self) -> list[list[int]]:
        return [[0] * (len(edges) + 1) for edges in self._edges]
