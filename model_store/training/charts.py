"""Small charts as SVG text, for pages without scripts or outside resources. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

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
