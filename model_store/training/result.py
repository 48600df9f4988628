"""What a run found out, for its report, its card and metrics.json. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
