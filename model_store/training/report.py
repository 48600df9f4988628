"""What a run found out, its report (one HTML page without scripts or outside resources) and its card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model_store.training.recipes import Options
from model_store.training.survey import Survey

if TYPE_CHECKING:
    from model_store.figures import Figures

_MAX_IN_MATRIX = 40


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


def page(result: Result, serve: str) -> str:
    """The page; `serve` is the command that serves the model."""
    trained = [(one["epoch"], one["train_loss"]) for one in result.history]
    held_out = [(one["epoch"], one["held_out_loss"]) for one in result.history if "held_out_loss" in one]
    return _filled(
        "report.html",
        result,
        serve=serve,
        trained=trained,
        held_out=held_out,
        max_in_matrix=_MAX_IN_MATRIX,
        x_of=_x_of,
        y_of=_y_of,
    )


def card(result: Result) -> str:
    """The card as Markdown."""
    return _filled("card.md", result, cell=_cell, options=json.dumps(asdict(result.options)))


def _filled(template: str, result: Result, **more: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        autoescape=select_autoescape(),
        loader=PackageLoader("model_store.training", ""),
        undefined=StrictUndefined,
    )
    meaning = "exactly the right labels" if result.thresholds else "the right label"
    rows = [(part, count) for part, count in result.rows.items() if count]
    facts = {"result": result, "figures": result.figures, "meaning": meaning, "rows": rows}
    return environment.get_template(template).render(**facts, **more)


# A chart is 460 x 260; its axes leave this much room on each side.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 460, 260, 48, 34, 12, 12
Span = tuple[float, float]


def _x_of(value: float, span: Span) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * _share(value, span), 1)


def _y_of(value: float, span: Span) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * _share(value, span), 1)


def _share(value: float, span: Span) -> float:
    return (value - span[0]) / ((span[1] - span[0]) or 1.0)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
