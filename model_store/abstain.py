"""A third answer for models of two labels: UNCERTAIN, if neither score is high enough."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from model_store.classifier import Classifier
from model_store.errors import ModelError
from model_store.tokens import Tokens

UNCERTAIN = "UNCERTAIN"


class Abstaining:
    """Adds the score of a tie to the two scores p and q of a classifier, as in Davidson's model (1970).

    The tie weighs v * sqrt(p * q), and all three are divided by their sum. v is chosen so that UNCERTAIN has
    the highest score exactly where both p and q are below `threshold`. The ratio of p and q does not change.
    """

    def __init__(self, classifier: Classifier, threshold: float) -> None:
        """`threshold` is between 0.5 and 1. Raises ModelError if there are not two exclusive labels."""
        info = classifier.info
        if len(info.labels) != 2 or info.multi_label:
            raise ModelError(f"{info.name} cannot abstain: only a model with two exclusive labels can.")
        if UNCERTAIN in info.labels:
            raise ModelError(f"{info.name} cannot abstain: it has a label {UNCERTAIN} already; rename that.")
        if info.windows is not None and info.windows.join == "max":
            raise ModelError(f"{info.name} cannot abstain with text windows that are joined by max.")
        self._classifier = classifier
        self._weight = sqrt(threshold / (1 - threshold))
        # The reference for drift knows two labels only.
        labels = (*info.labels, UNCERTAIN)
        self.info = info.under(f"abstain {threshold!r}", labels=labels, reference=None)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """As the classifier."""
        return self._classifier.tokenize(texts)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Scores of shape (len(batch), 3), which add up to 1."""
        return [self._with_tie(*row) for row in self._classifier.classify(batch)]

    def close(self) -> None:
        """As the classifier."""
        self._classifier.close()

    def _with_tie(self, p: float, q: float) -> list[float]:
        tie = self._weight * sqrt(p * q)
        return [score / (p + q + tie) for score in (p, q, tie)]
