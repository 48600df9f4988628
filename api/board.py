"""Numbers that cost almost nothing to count: rows of float cells, read only when somebody scrapes.

One process keeps its cells in memory. Several keep them in one file each, in a directory they share, and the
one that is scraped adds them up: counters of processes that have ended included, their gauges not.
Every process declares the same families in the same order, so a cell means the same in each file.
"""

from __future__ import annotations

import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CELLS = 8192
_BYTES = CELLS * 8
_SUFFIX = ".cells"


class Cell:
    """One number that only grows, or a gauge that is set."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: memoryview[float], at: int) -> None:
        self._cells = cells
        self._at = at

    def add(self, amount: float = 1.0) -> None:
        self._cells[self._at] += amount

    def set(self, value: float) -> None:
        self._cells[self._at] = value


class Timer:
    """One histogram: a count for each bucket, then the sum."""

    __slots__ = ("_at", "_bounds", "_cells", "_sum")

    def __init__(self, cells: memoryview[float], at: int, bounds: Sequence[float]) -> None:
        self._cells = cells
        self._at = at
        self._bounds = bounds
        self._sum = at + len(bounds) + 1

    def observe(self, seconds: float) -> None:
        self._cells[self._at + bisect_left(self._bounds, seconds)] += 1.0
        self._cells[self._sum] += seconds


class Family:
    """Every series of one metric: a run of cells for each combination of label values.

    A value that was not declared counts as the last one, which is why label lists end in "other".
    """

    def __init__(
        self,
        name: str,
        text: str,
        kind: str,
        labels: dict[str, Sequence[str]],
        bounds: Sequence[float],
        at: int,
    ) -> None:
        self.name, self.text, self.kind, self.bounds, self.at = name, text, kind, tuple(bounds), at
        self.labels = {label: tuple(values) for label, values in labels.items()}
        self.width = len(self.bounds) + 2 if kind == "histogram" else 1
        self.cells = self.width * prod(len(values) for values in self.labels.values())

    def place(self, values: Sequence[str]) -> int:
        """The first cell of one series."""
        at = 0
        for declared, value in zip(self.labels.values(), values, strict=True):
            at = at * len(declared) + (declared.index(value) if value in declared else len(declared) - 1)
        return self.at + at * self.width

    def read(self, cells: array[float]) -> Metric:
        """The metric as Prometheus knows it; of large families, only series in use."""
        names = list(self.labels)
        metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
        if self.kind == "histogram":
            metric = HistogramMetricFamily(self.name, self.text, labels=names)
        else:
            family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
            metric = family(self.name, self.text, labels=names)
        for values in product(*self.labels.values()):
            at = self.place(values)
            row = cells[at : at + self.width]
            if (len(names) > 1 or self.kind == "histogram") and not any(row):
                continue
            if isinstance(metric, HistogramMetricFamily):
                metric.add_metric(values, list(self._buckets(row)), row[-1])
            else:
                metric.add_metric(values, row[0])
        return metric

    def _buckets(self, row: array[float]) -> Iterator[tuple[str, float]]:
        total = 0.0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], row, strict=False):
            total += count
            yield bound, total


class Board(Collector):
    """The families of one process and their cells. `directory` is where sibling processes keep theirs."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._families: list[Family] = []
        self._next = 0
        self._memory = (
            mmap.mmap(-1, _BYTES) if directory is None else _open(directory / f"{os.getpid()}{_SUFFIX}")
        )
        self.cells = memoryview(self._memory).cast("d")

    def declare(
        self,
        kind: str,
        name: str,
        text: str,
        labels: dict[str, Sequence[str]] | None = None,
        bounds: Sequence[float] = (),
    ) -> Family:
        """A new family of kind counter, gauge or histogram."""
        family = Family(name, text, kind, labels or {}, bounds, self._next)
        self._next += family.cells
        assert self._next <= CELLS, "more series than cells: fewer label values, or a larger CELLS"
        self._families.append(family)
        return family

    def cell(self, family: Family, *values: str) -> Cell:
        return Cell(self.cells, family.place(values))

    def timer(self, family: Family, *values: str) -> Timer:
        return Timer(self.cells, family.place(values), family.bounds)

    def row(self, family: Family, *values: str) -> array[float]:
        """The cells of one series, summed over all processes."""
        at = family.place(values)
        row = array("d", self.cells[at : at + family.width])
        for path in self._siblings():
            with path.open("rb") as file:
                file.seek(at * row.itemsize)
                theirs = array("d", file.read(family.width * row.itemsize))
            row = array("d", map(float.__add__, row, theirs))
        return row

    def collect(self) -> Iterator[Metric]:
        everything, living = self._read()
        for family in self._families:
            yield family.read(living if family.kind == "gauge" else everything)

    def _read(self) -> tuple[array[float], array[float]]:
        """The sums over all processes, and over those that run."""
        own = array("d", self.cells.tobytes())
        everything, living = own[:], own[:]
        for path in self._siblings():
            theirs = array("d", path.read_bytes())
            everything = array("d", map(float.__add__, everything, theirs))
            if _runs(int(path.stem)):
                living = array("d", map(float.__add__, living, theirs))
        return everything, living

    def _siblings(self) -> list[Path]:
        """The files of the other processes, ended ones included."""
        found = self._directory.glob(f"*{_SUFFIX}") if self._directory else ()
        return [path for path in found if int(path.stem) != os.getpid()]


def _open(path: Path) -> mmap.mmap:
    with path.open("w+b") as file:
        file.truncate(_BYTES)
        return mmap.mmap(file.fileno(), _BYTES)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
