"""The picture of a soak: a small chart of each series over the whole run, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.soak.slopes import Slope

# The most points of a line.
POINTS = 720
COLUMNS, WIDTH, HEIGHT, GAP, TITLE = 3, 300, 90, 24, 36


def draw(
    series: Mapping[str, Sequence[tuple[float, float]]], slopes: Mapping[str, Slope], seconds: float
) -> str:
    """Each from zero to a tenth above its largest value; the second half, which counts, is shaded."""
    rows = -(-len(series) // COLUMNS)
    size = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + TITLE + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif"'
        ' font-size="12" role="img" aria-label="Memory, descriptors, threads and keys over a soak">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="#fff"/>',
    ]
    for number, (name, samples) in enumerate(series.items()):
        left = GAP + number % COLUMNS * (WIDTH + GAP)
        top = GAP + number // COLUMNS * (HEIGHT + TITLE + GAP)
        parts += _chart(name, samples, slopes[name], seconds)
        parts[-1] = f'<g transform="translate({left} {top})">{parts[-1]}</g>'
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(name: str, samples: Sequence[tuple[float, float]], slope: Slope, seconds: float) -> list[str]:
    most = max(value for _, value in samples) * 1.1 or 1.0
    shown = samples[:: -(-len(samples) // POINTS)]
    points = " ".join(
        f"{at / seconds * WIDTH:.1f},{TITLE + HEIGHT * (1 - value / most):.1f}" for at, value in shown
    )
    summary = f"{slope.level:.4g}; at most {slope.upper:+.2f} % an hour"
    return [
        f'<text y="12">{name}</text><text y="28" fill="#666" font-size="11">{summary}</text>'
        f'<rect x="{WIDTH / 2}" y="{TITLE}" width="{WIDTH / 2}" height="{HEIGHT}" fill="#f1f3f5"/>'
        f'<path d="M0 {TITLE}v{HEIGHT}h{WIDTH}" fill="none" stroke="#adb5bd"/>'
        f'<polyline points="{points}" fill="none" stroke="#0b7285" stroke-width="1.5"/>'
    ]
