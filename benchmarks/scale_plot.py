"""The picture of `benchmarks.scale`: the p99 of the queue's delay over time, a curve for each event."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 330, 64, 40, 16, 48
COLOURS = ("#0b7285", "#d9480f", "#5f3dc4", "#2b8a3e")
LEAST, MOST = 0.1, 10_000.0  # ms, on a logarithmic axis


def draw(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An SVG with a curve of (s, ms) for each name, and the 50 ms of the promise."""
    seconds = max(at for curve in curves.values() for at, _ in curve)

    def x(at: float) -> float:
        return LEFT + at / seconds * (WIDTH - LEFT - RIGHT)

    def y(ms: float) -> float:
        share = math.log(max(ms, LEAST) / LEAST) / math.log(MOST / LEAST)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12" role="img" aria-label="p99 of the delay in the queue over time">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for exponent in range(-1, 5):
        at = y(10.0**exponent)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    parts += [
        f'<text x="{x(second):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{second}</text>'
        for second in range(math.floor(seconds) + 1)
    ]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 12}">seconds</text>')
    parts.append(f'<text x="8" y="{TOP - 22}">p99 from the API to a worker, ms</text>')
    promise = y(50.0)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{promise:.1f}" y2="{promise:.1f}" stroke="#888"'
        ' stroke-dasharray="4 4"/>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(at):.1f},{y(ms):.1f}" for at, ms in curve)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + 8 + number * 190}" y="{TOP - 6}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
