"""The plot of a simulated scaling: workers, queue wait and misses over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Curves:
    """What the plot keeps of one outcome."""

    model: str
    load: str
    seconds: float
    replicas: list[tuple[float, int]]
    windows: list[tuple[float, float, float]]


def plot(path: Path, curves: Sequence[Curves], title: str) -> None:
    """Workers, queue wait and budget misses over time, a column for each load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = list(dict.fromkeys(one.load for one in curves))
    colours = dict(zip(dict.fromkeys(one.model for one in curves), ("#0b7285", "#d9480f"), strict=True))
    figure, axes = pyplot.subplots(3, len(columns), figsize=(13, 7.5), sharex="col", layout="constrained")
    for one in curves:
        workers, waits, misses = axes[:, columns.index(one.load)]
        times, wait, missed = np.array(one.windows).T
        changes, replicas = zip(*one.replicas, (one.seconds, one.replicas[-1][1]), strict=True)
        style = {"color": colours[one.model], "label": one.model}
        workers.set_title(one.load)
        workers.step(np.array(changes) / 60, replicas, where="post", **style)
        waits.semilogy(times / 60, np.maximum(wait, 1), **style)
        misses.plot(times / 60, missed * 100, **style)
        misses.set_xlabel("minutes")
    for axis, name in zip(axes[:, 0], ("workers", "queue wait p99, ms", "budget missed, %"), strict=True):
        axis.set_ylabel(name)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0 if axis.get_yscale() == "linear" else 1)
    axes[0, 0].legend(loc="upper right")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
