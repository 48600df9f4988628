"""What a run found out, its report (one HTML page without scripts or outside resources) and its card.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from model_store.training.recipes import Options
from model_store.training.survey import Survey

if TYPE_CHECKING:
    from model_store.figures import Figures

_MAX_IN_MATRIX = 40
_PAGE = resources.files("model_store.training") / "report.html"
_CARD = resources.files("model_store.training") / "card.md"


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
    parts = [
        _head(result),
        _labels(result),
        _confusion(result),
        '<div class="pair">' + _calibration(result) + _curves(result) + "</div>",
        _mistakes(result),
        "<h2>The data</h2><pre>" + escape("\n".join(result.survey.lines())) + "</pre>",
        "<h2>Serve it</h2><pre>" + escape(serve) + "</pre>",
    ]
    template = Template(_PAGE.read_text("utf-8"))
    return template.substitute(name=escape(result.name), parts="\n".join(parts))


def _head(result: Result) -> str:
    found = result.figures
    low, high = found.interval_95
    meaning = "exactly the right labels" if result.thresholds else "the right label"
    rows = ", ".join(f"{count:,} {part}" for part, count in result.rows.items() if count)
    return (
        f"<h1>{escape(result.name)}</h1><p class='soft'>Recipe {result.options.recipe} on the base "
        f"{escape(result.base)}; rows: {rows}; {result.seconds / 60:.1f} minutes, "
        f"{result.processor_seconds / 60:.1f} of processor time.</p>"
        f"<p><span class='big'>{found.accuracy:.1%}</span> of {found.texts:,} test texts got {meaning} "
        f"(95 % interval: {low:.1%} to {high:.1%}). A bag of words gets {result.bag_of_words:.1%}. "
        f"F1, mean of labels: {found.f1:.3f}.</p>"
    )


def _labels(result: Result) -> str:
    limits = result.thresholds
    head = ["label", "test texts", "precision", "recall", "F1", *(["threshold"] if limits else [])]
    rows = (
        [
            one.label,
            f"{one.texts:,}",
            *(f"{value:.3f}" for value in (one.precision, one.recall, one.f1)),
            *([f"{limits[number]:.2f}"] if limits else []),
        ]
        for number, one in enumerate(result.figures.classes)
    )
    return "<h2>By label</h2>" + _table(head, rows)


def _confusion(result: Result) -> str:
    counts, labels = result.figures.confusion, [one.label for one in result.figures.classes]
    if not counts or len(labels) > _MAX_IN_MATRIX:
        return ""
    lines = ["<tr><th></th>" + "".join(f"<th>{escape(label)}</th>" for label in labels) + "</tr>"]
    for row, label in enumerate(labels):
        total = sum(counts[row]) or 1
        cells = "".join(
            f'<td style="background: rgba(var(--{"tint" if row == column else "wrong"}), '
            f'{count / total * 0.8:.2f})">{count or ""}</td>'
            for column, count in enumerate(counts[row])
        )
        lines.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    return (
        "<h2>Confusion</h2><p class='soft'>A row for each label of the texts, a column for each prediction."
        "</p>"
        f'<div class="scroll"><table class="matrix">{"".join(lines)}</table></div>'
    )


def _calibration(result: Result) -> str:
    chart = Chart("calibration", (0, 1), (0, 1), ("score", "share that was right"))
    chart.line([(0, 0), (1, 1)], "guide")
    most = max(one.count for one in result.figures.bins)
    dots = [(one.score, one.right, 3 + 9 * (one.count / most) ** 0.5) for one in result.figures.bins]
    return (
        f"<figure><h2>Calibration</h2>{chart.dots(dots, 'a').svg()}<figcaption class='soft'>"
        "On the line, a score of 0.8 is right in 80 % of cases; larger dots have more texts. Mean distance: "
        f"{result.figures.calibration_error:.3f}, with a temperature of {result.temperature:.2f}."
        "</figcaption></figure>"
    )


def _curves(result: Result) -> str:
    charts = ""
    if points := [(float(rows), accuracy) for rows, accuracy in result.learning_curve]:
        most = points[-1][0]
        chart = Chart("learning curve", (0, most), (0, 1), ("training rows", "test accuracy"))
        charts += (
            f"<figure><h2>Learning curve</h2>{chart.line(points, 'a').svg()}<figcaption class='soft'>"
            "Of a linear head on the untrained base. If it still rises at its end, more labelled rows help."
            "</figcaption></figure>"
        )
    held_out = [(one["epoch"], one["held_out_loss"]) for one in result.history if "held_out_loss" in one]
    if held_out:
        trained = [(one["epoch"], one["train_loss"]) for one in result.history]
        top = max(value for _, value in [*held_out, *trained])
        chart = Chart("loss", (1, max(2, len(result.history))), (0, top), ("epoch", "loss"))
        charts += (
            f"<figure><h2>Loss</h2>{chart.line(trained, 'b').line(held_out, 'a').svg()}"
            "<figcaption class='soft'>Blue: held-out rows, whose lowest point is the model. Orange: training "
            "rows.</figcaption></figure>"
        )
    return charts


def _mistakes(result: Result) -> str:
    if not result.mistakes:
        return "<h2>Most confident mistakes</h2><p>There are none.</p>"
    rows = (
        [f"{one.score:.2f}", ", ".join(one.expected) or "none", ", ".join(one.predicted) or "none", one.text]
        for one in result.mistakes
    )
    return (
        "<h2>Most confident mistakes</h2><p class='soft'>Often the label in the file is what is wrong.</p>"
        + _table(["score", "label", "predicted", "text"], rows)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>{line(head, "th")}{body}</table></div>'


Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 460, 260, 48, 34, 12, 12


class Chart:
    """An SVG chart with one axis each way; `across` and `up` are the lowest and highest values."""

    def __init__(
        self, title: str, across: tuple[float, float], up: tuple[float, float], names: tuple[str, str]
    ) -> None:
        self._across, self._up = across, up
        self._parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        ]
        for step in range(5):
            value = up[0] + (up[1] - up[0]) * step / 4
            y = self._y(value)
            self._parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
            self._text(_LEFT - 6, y + 4, f"{value:.2g}", "end")
        for step in range(5):
            value = across[0] + (across[1] - across[0]) * step / 4
            self._text(
                self._x(value),
                _HEIGHT - _BOTTOM + 15,
                f"{value:,.0f}" if across[1] > 10 else f"{value:.3g}",
                "middle",
            )
        self._text((_LEFT + _WIDTH) / 2, _HEIGHT - 3, names[0], "middle")
        self._parts.append(
            f'<text transform="rotate(-90)" x="{-(_HEIGHT - _BOTTOM) / 2}" y="11" text-anchor="middle">'
            f"{escape(names[1])}</text>"
        )

    def line(self, points: Points, kind: str) -> Chart:
        """A line with dots; `kind` is its class: a, b or guide."""
        path = " ".join(f"{self._x(x)},{self._y(y)}" for x, y in points)
        self._parts.append(f'<polyline class="{kind}" points="{path}"/>')
        return self if kind == "guide" else self.dots([(x, y, 3.0) for x, y in points], kind)

    def dots(self, dots: Sequence[tuple[float, float, float]], kind: str) -> Chart:
        """Dots at x, y of a radius in pixels."""
        for x, y, radius in dots:
            self._parts.append(
                f'<circle class="dot {kind}" cx="{self._x(x)}" cy="{self._y(y)}" r="{radius:.1f}"/>'
            )
        return self

    def svg(self) -> str:
        return "".join([*self._parts, "</svg>"])

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def _x(self, value: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * _share(value, self._across), 1)

    def _y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * _share(value, self._up), 1)


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / ((span[1] - span[0]) or 1.0)


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
