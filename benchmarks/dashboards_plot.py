"""Draws a Grafana dashboard from the answers of a Prometheus server to the queries of its panels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np

COLOURS = ("#0b7285", "#d9480f", "#5f3dc4", "#2b8a3e", "#e67700", "#a61e4d", "#364fc7", "#495057")
GRID_COLUMNS = 24
ROW_INCHES = 0.42
MAX_SERIES = 12  # in a legend

Series = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Range:
    """The time that is drawn, in seconds since 1970, and the metrics of which server."""

    prometheus: str
    start: float
    end: float
    step_s: float = 1.0
    rate_s: int = 10

    def query(self, expression: str) -> list[Series]:
        """The series of an expression. Raises RuntimeError if Prometheus rejects it."""
        filled = expression.replace("$__rate_interval", f"{self.rate_s}s").replace("$namespace", ".*")
        words = {"query": filled, "start": self.start, "end": self.end, "step": self.step_s}
        with urlopen(f"{self.prometheus}/api/v1/query_range?{urlencode(words)}", timeout=30) as response:
            answer = json.load(response)
        if answer["status"] != "success":
            raise RuntimeError(f"{filled}: {answer}")
        series: list[Series] = answer["data"]["result"]
        return series


def draw(dashboard: dict[str, Any], over: Range, path: Path) -> int:
    """Writes the picture of a dashboard. Returns the number of panels that have data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = pyplot.figure(figsize=(15, rows * ROW_INCHES))
    grid = figure.add_gridspec(
        rows, GRID_COLUMNS, left=0.03, right=0.985, top=1 - 0.6 / (rows * ROW_INCHES), bottom=0.01
    )
    filled = 0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        # The last row and column stay free, as the gap between panels and for the times below the axis.
        axis = figure.add_subplot(grid[at["y"] : at["y"] + at["h"] - 1, at["x"] + 1 : at["x"] + at["w"]])
        axis.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
        answers = [
            (target.get("legendFormat", ""), over.query(target["expr"])) for target in panel["targets"]
        ]
        found = [(legend(form, one["metric"]), one["values"]) for form, series in answers for one in series]
        PANELS[panel["type"]](axis, found, panel, over)
        filled += bool(found)
    title = f"{dashboard['title']}, drawn from Prometheus' answers to the queries of its panels"
    figure.suptitle(title, x=0.03, y=1 - 0.15 / (rows * ROW_INCHES), ha="left", va="top", fontsize=11)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)
    return filled


def legend(form: str, labels: dict[str, str]) -> str:
    """Grafana's legend: {{label}} is the value of a label, or nothing."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), form).strip()


def formatted(value: float, unit: str) -> str:
    """A value as Grafana writes it, nearly."""
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    ending = {"ops": "/s", "reqps": " req/s"}.get(unit, "")
    return f"{value:,.0f}{ending}" if value >= 100 else f"{value:.3g}{ending}"


def _unit(panel: dict[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"].get("unit", "short"))


def _stat(axis: Any, found: list[tuple[str, Any]], panel: dict[str, Any], over: Range) -> None:
    values = [float(value) for _, value in found[0][1]] if found else []
    usable = [value for value in values if not math.isnan(value)]
    text = formatted(usable[-1], _unit(panel)) if usable else "no data"
    axis.text(
        0.5, 0.5, text, ha="center", va="center", fontsize=20, color=COLOURS[0], transform=axis.transAxes
    )
    axis.set_axis_off()


def _lines(axis: Any, found: list[tuple[str, Any]], panel: dict[str, Any], over: Range) -> None:
    for number, (name, values) in enumerate(found):
        times, numbers = np.array(values, dtype=float).T
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(times - over.start, numbers, color=colour, linewidth=1.2, label=name)
    _time_axis(axis, found, panel, over)
    axis.set_ylim(bottom=0)
    if 0 < len(found) <= MAX_SERIES:
        axis.legend(fontsize=6.5, loc="upper left", framealpha=0.6)


def _heatmap(axis: Any, found: list[tuple[str, Any]], panel: dict[str, Any], over: Range) -> None:
    """Shares of each bucket: Prometheus' buckets are cumulative, and named by their upper bound."""
    ordered = sorted(found, key=lambda one: float(one[0].replace("+Inf", "inf")))
    if ordered:
        series = [{float(at): float(value) for at, value in values} for _, values in ordered]
        times = np.array(sorted(set().union(*series)))
        cumulative = np.array([[one.get(at, 0.0) for at in times] for one in series])
        cells = np.diff(cumulative, axis=0, prepend=0.0)
        axis.pcolormesh(times - over.start, np.arange(len(ordered)), cells, cmap="Blues", shading="nearest")
        axis.set_yticks(np.arange(len(ordered)), [name for name, _ in ordered], fontsize=6.5)
    _time_axis(axis, found, panel, over, numbers=False)


def _time_axis(
    axis: Any, found: list[tuple[str, Any]], panel: dict[str, Any], over: Range, *, numbers: bool = True
) -> None:
    axis.set_xlim(0, over.end - over.start)
    axis.tick_params(labelsize=6.5)
    axis.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g} s")
    if numbers:
        axis.yaxis.set_major_formatter(lambda value, _: formatted(value, _unit(panel)))
    axis.grid(alpha=0.25)
    if not found:
        axis.text(0.5, 0.5, "no data", ha="center", va="center", color="#868e96", transform=axis.transAxes)


PANELS: dict[str, Callable[[Any, list[tuple[str, Any]], dict[str, Any], Range], None]] = {
    "stat": _stat, "timeseries": _lines, "heatmap": _heatmap,
}  # fmt: skip
