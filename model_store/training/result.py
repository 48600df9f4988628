"""What a run found out, for its report, its card and metrics.json. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from model_store.training.recipes import Options
from model_store.training.survey import Survey

if TYPE_CHECKING:
    from model_store.figures import Figures


@dataclass(frozen=True, slots=True)
class Mistake:
    """A test text with a wrong prediction, and the score of the labels that are wrong."""

    text: str
    expected: tuple[str, ...]
    predicted: tuple[str, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """Figures are of the test part, or of the test file. Accuracies of the baselines are for comparison."""

    name: str
    base: str
    options: Options
    survey: Survey
    rows: dict[str, int]
    temperature: float
    thresholds: tuple[float, ...] | None
    figures: Figures
    bag_of_words: float
    learning_curve: list[tuple[int, float]]
    history: list[dict[str, float]]
    mistakes: tuple[Mistake, ...]
    seconds: float
    processor_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without texts."""
        content = asdict(self)
        del content["mistakes"]
        return content


_CARD = resources.files("model_store.training") / "card.md"


def card(result: Result) -> str:
    """The card as Markdown."""
    figures, limits = result.figures, result.thresholds
    labels = (
        f"| {_cell(one.label)} | {one.texts} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} | "
        f"{f'{limits[number]:.2f}' if limits else 'the best'} |"
        for number, one in enumerate(figures.classes)
    )
    return _CARD.read_text("utf-8").format(
        name=_cell(result.name),
        count=len(figures.classes),
        several="any number" if limits else "one",
        accuracy=figures.accuracy,
        texts=figures.texts,
        meaning="exactly the right labels" if limits else "the right label",
        low=figures.interval_95[0],
        high=figures.interval_95[1],
        bag_of_words=result.bag_of_words,
        error=figures.calibration_error,
        temperature=result.temperature,
        labels="\n".join(labels),
        rows="\n".join(f"- {part}: {count:,} rows" for part, count in result.rows.items() if count),
        base=_cell(result.base),
        options=json.dumps(result.as_dict()["options"]),
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
