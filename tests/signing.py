"""Checks single answers of models that sign (`stub@signed-NAME`), whatever route they came through.

A `Said` is what one answer claims, in the same form for every route. A `Checker` knows the revisions and what
was asked, and says what is wrong with it. It needs to know nothing of how the service works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal

from model_store.classifier import Classifier
from model_store.stub import StubClassifier

# The model of suites that have one only.
SIGNED = "stub@signed"
# The tolerance of scores that a route carries as 32-bit floats.
TOLERANCE = 2e-7
# Digits of a revision in the names of models.
SHOWN_DIGITS = 12

Order = Literal["id", "score", "none"]
Wrong = Literal[
    "count",
    "text",
    "scores",
    "labels",
    "order",
    "best",
    "mixed",
    "name",
    "model",
    "stale",
    "separation",
]


@dataclass(frozen=True, slots=True)
class Row:
    """What an answer says of one text: scores by label in the order of the answer.

    `order` is that of all labels, or `none` if the route picks labels; one that the revision lacks then has
    the score 0. `labels` is None if scores are by position, and `best` is the label that is called the best.
    """

    scores: Sequence[float]
    labels: Sequence[str] | None = None
    order: Order = "id"
    best: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """One answer. `names` are the models that it names, as `name@revision`.

    `hit`: nothing was computed for it. `asked_at` is the time of the request on the clock of `settled`.
    """

    texts: Sequence[str]
    rows: Sequence[Row]
    names: Sequence[str] = ()
    model: str = "stub"
    client: str = ""
    hit: bool = False
    asked_at: float = 0.0


def names_in(header: str) -> list[str]:
    """The models in a header X-Model."""
    return [name for name in header.split(", ") if name]


def rows_of(predictions: Sequence[Sequence[Mapping[str, Any]]], order: Order = "id") -> list[Row]:
    """The rows of "predictions", or of lists of objects with `label` and `score` in general."""
    return [
        Row([one["score"] for one in pairs], [one["label"] for one in pairs], order) for pairs in predictions
    ]


class Revision:
    """One revision of a model that signs, by its reference; or another `classifier` under that name.

    `tolerance` is how far its scores may be from those of the classifier.
    """

    def __init__(
        self,
        reference: str,
        model: str = "stub",
        classifier: Classifier | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.tolerance = tolerance
        self.model = model
        self.reference = reference
        self._classifier: Classifier = classifier or StubClassifier(variant=reference.partition("@")[2])
        self.name = f"{model}@{self._classifier.info.revision[:SHOWN_DIGITS]}"
        self.labels = self._classifier.info.labels
        self.scores = lru_cache(maxsize=100_000)(self._scores)

    def _scores(self, text: str) -> Mapping[str, float]:
        (row,) = self._classifier.classify(self._classifier.tokenize([text]))
        return dict(zip(self.labels, row, strict=True))

    def why_not(self, row: Row, text: str) -> Wrong | None:
        """What is wrong with a row if it should be this revision's; None if nothing is."""
        own = self.scores(text)
        same = partial(_same, tolerance=self.tolerance)
        if row.labels is None:
            right = same(row.scores, list(own.values()))
        elif row.order == "none":
            right = same(row.scores, [own.get(label, 0.0) for label in row.labels])
        else:
            right = set(row.labels) == set(own) and same(row.scores, [own[label] for label in row.labels])
        if not right:
            return "labels" if same(sorted(row.scores), sorted(own.values())) else "scores"
        if row.order == "id" and row.labels is not None and tuple(row.labels) != self.labels:
            return "order"
        if row.order == "score" and list(row.scores) != sorted(row.scores, reverse=True):
            return "order"
        if row.best is not None and own.get(row.best, -1.0) < max(own.values()) - 2 * self.tolerance:
            return "best"
        return None


@dataclass
class Checker:
    """Checks answers one by one. `separate`: clients do not share results."""

    revisions: Sequence[Revision]
    separate: bool = False
    _asked: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _retired: dict[str, float] = field(default_factory=dict)
    _texts: set[str] = field(default_factory=set)

    def asks(self, texts: Sequence[str]) -> None:
        """These texts have been sent, so that an answer to another one can be recognised as theirs."""
        self._texts.update(texts)

    def settled(self, *retired: str, at: float) -> None:
        """A move is over: from `at` on, the revisions of these references may not answer any more."""
        self._retired.update(dict.fromkeys(retired, at))

    def wrong(self, said: Said) -> list[Wrong]:
        """Everything that is wrong with an answer, in no particular order; nothing if it is right."""
        self._texts.update(said.texts)
        if len(said.rows) != len(said.texts):
            return ["count"]
        found: list[Wrong] = []
        by: set[str] = set()
        models: set[str] = set()
        for row, text in zip(said.rows, said.texts, strict=True):
            whose = [one for one in self.revisions if one.why_not(row, text) is None]
            if not whose:
                found.append(self._why(row, text))
                continue
            models.update(one.model for one in whose)
            by.update(one.name for one in whose if one.model == said.model)
        if models and said.model not in models:
            found.append("model")
        if len(by) > 1:
            found.append("mixed")
        if said.names and by and by != set(said.names):
            found.append("name")
        late = {one for one, at in self._retired.items() if at <= said.asked_at}
        if any(one.name in by and one.reference in late for one in self.revisions):
            found.append("stale")
        return [*dict.fromkeys([*found, *self._shared(said)])]

    def _why(self, row: Row, text: str) -> Wrong:
        reasons = [one.why_not(row, text) for one in self.revisions]
        for reason in ("best", "order", "labels"):
            if reason in reasons:
                return reason
        others = (other for other in self._texts if other != text)
        theirs = any(one.why_not(row, other) is None for other in others for one in self.revisions)
        return "text" if theirs else "scores"

    def _shared(self, said: Said) -> list[Wrong]:
        known = self._asked.setdefault((said.model, said.client), set())
        new = set(said.texts) - known
        known.update(said.texts)
        return ["separation"] if self.separate and said.hit and new else []


def _same(scores: Sequence[float], right: Sequence[float], tolerance: float) -> bool:
    return len(scores) == len(right) and all(
        abs(one - other) <= tolerance for one, other in zip(scores, right, strict=True)
    )
