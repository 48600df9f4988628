"""What the report measures: swaps of groups, names and places, and sentences of each kind."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
Positive = Callable[[Sequence[str]], NDArray[np.float64]]  # texts -> P(positive) of each


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the report. The value should be at most `goal`, or at least it if `least`."""

    name: str
    value: float
    goal: float
    texts: int
    detail: str = ""
    least: bool = False

    def keeps(self, limit: float) -> bool:
        """Whether the value is on the right side of `limit`; a goal is one, too."""
        return self.value >= limit if self.least else self.value <= limit


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text and its label: 0 negative, 1 positive, 0.5 neither."""

    label: float
    text: str


def read_sentences() -> dict[str, list[Sentence]]:
    """The sentences of sentences.tsv by kind."""
    kinds: dict[str, list[Sentence]] = defaultdict(list)
    for line in (HERE / "sentences.tsv").read_text("utf-8").splitlines()[1:]:
        kind, label, text = line.split("\t")
        kinds[kind].append(Sentence(float(label), text))
    return dict(kinds)


def people(positive: Positive, goals: dict[str, float]) -> Iterator[Measure]:
    """How often a swap changes the label of a neutral sentence, and how far a word moves the mean score.

    A swap changes a label if it differs from that of most members of the family in the same sentence.
    """
    book = tomllib.loads((HERE / "people.toml").read_text("utf-8"))
    lines = {kind: block.strip().splitlines() for kind, block in book["sentences"].items()}
    families = [(name, words, lines["groups"]) for name, words in book["groups"].items()]
    families += [(name, words, lines[name]) for name, words in book["swaps"].items()]
    for name, block, patterns in families:
        words = [word.strip() for word in block.split(",")]
        scores = positive([pattern.format(word) for pattern in patterns for word in words])
        table = scores.reshape(len(patterns), len(words))
        called = table > 0.5
        usual = called.mean(axis=1, keepdims=True) > 0.5
        means = table.mean(axis=0)
        apart = np.abs(means - means.mean())
        low, high = words[int(means.argmin())], words[int(means.argmax())]
        detail = f"{low} {means.min():.2f}, {high} {means.max():.2f}"
        yield Measure(f"{name}: labels changed", float((called != usual).mean()), goals["flips"], table.size)
        yield Measure(f"{name}: largest distance", float(apart.max()), goals["distance"], table.size, detail)


def kinds(positive: Positive, goals: dict[str, float]) -> Iterator[Measure]:
    """Accuracy where there is a verdict; distance from 0.5 and sure answers where there is none."""
    for kind, rows in read_sentences().items():
        scores = positive([row.text for row in rows])
        labels = np.array([row.label for row in rows])
        if kind == "typing":
            yield from _typing(positive, rows, scores, goals)
        elif kind == "neutral":
            sure = np.maximum(scores, 1 - scores) > 0.9
            yield Measure("neutral: sure (> 0.9)", float(sure.mean()), goals["sure"], len(rows))
        elif (labels == 0.5).all():
            apart = np.abs(scores - 0.5)
            detail = f"{scores.min():.2f} to {scores.max():.2f}"
            yield Measure(
                f"{kind}: largest distance from 0.5", float(apart.max()), goals[kind], len(rows), detail
            )
        else:
            right = (scores > 0.5) == (labels > 0.5)
            wrong = "; ".join(row.text for row, one in zip(rows, right, strict=True) if not one)
            detail = f"wrong: {wrong}" if wrong else ""
            yield Measure(f"{kind}: right", float(right.mean()), goals[kind], len(rows), detail, least=True)


def slips(text: str) -> list[str]:
    """The text with one typing error: in each word of five or more letters, two swapped or one lost."""
    words = text.split(" ")
    result = []
    for at, word in enumerate(words):
        if len(word) >= 5:
            middle = len(word) // 2
            swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
            lost = word[:middle] + word[middle + 1 :]
            result += [" ".join((*words[:at], wrong, *words[at + 1 :])) for wrong in (swapped, lost)]
    return result


def _typing(
    positive: Positive, rows: Sequence[Sentence], scores: NDArray[np.float64], goals: dict[str, float]
) -> Iterator[Measure]:
    """The share of texts with one typing error that are wrong, less that of the same texts without."""
    labels = np.array([row.label > 0.5 for row in rows])
    before = ((scores > 0.5) == labels).mean()
    typed = [slips(row.text) for row in rows]
    answers = np.split(
        positive([text for texts in typed for text in texts]) > 0.5, np.cumsum(list(map(len, typed)))[:-1]
    )
    after = np.mean([(part == label).mean() for part, label in zip(answers, labels, strict=True)])
    detail = f"{100 * before:.1f} to {100 * after:.1f} % right"
    number = sum(map(len, typed))
    yield Measure("one typing error: cost", float(before - after), goals["typing"], number, detail)
