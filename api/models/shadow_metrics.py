"""The metrics of shadows: what candidates would have answered."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from batcher.publishing.comparisons import SCORE_STEP, label_pairs

# With more labels than this, the pairs of labels are not metrics: they could be too many series.
MOST_LABELS = 20


class Shadowing:
    """Declares the metrics and adds counts to them. The label `model` is the name that clients use."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._texts = Counter(
            "millrace_shadow_texts",
            "Texts that a shadow got: same label, another one, failed, or dropped",
            ["model", "outcome"],
            registry=registry,
        )
        self._labels = Counter(
            "millrace_shadow_labels",
            "Texts by the label of the revision that answers and that of the shadow",
            ["model", "current", "candidate"],
            registry=registry,
        )
        self._difference = Counter(
            "millrace_shadow_score_difference",
            "Sum over texts of the mean absolute difference of their scores",
            ["model"],
            registry=registry,
        )
        self._seconds = Counter(
            "millrace_shadow_model_seconds",
            "Each text's part of its forward pass",
            ["model", "revision"],
            registry=registry,
        )

    def add(self, model: str, counts: Mapping[str, int]) -> None:
        texts, agree = counts.get("texts", 0), counts.get("agree", 0)
        outcomes = {"same": agree, "changed": texts - agree}
        outcomes |= {name: counts.get(name, 0) for name in ("failed", "dropped")}
        for outcome, count in outcomes.items():
            if count:
                self._texts.labels(model, outcome).inc(count)
        if not texts:
            return
        labels = counts.get("scores", 0) // texts
        self._difference.labels(model).inc(counts.get("difference", 0) * SCORE_STEP / labels)
        for revision in ("current", "candidate"):
            self._seconds.labels(model, revision).inc(counts.get(f"{revision}_text_us", 0) / 1e6)
        if labels <= MOST_LABELS:
            for (current, candidate), count in label_pairs(counts).items():
                self._labels.labels(model, current, candidate).inc(count)
