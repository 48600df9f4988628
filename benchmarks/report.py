"""One way to show figures: a table for people, JSON under bench-results/ for whatever comes after."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from os import sched_getaffinity
from pathlib import Path
from typing import Any

from benchmarks.channel import Sender

RESULTS = Path("bench-results")
# Instructions that decide how fast a model runs.
WIDE_FLAGS = {
    *("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16"),
    *("amx_int8", "asimd", "sve", "bf16", "i8mm"),
}
# Every goal that this process has compared with a figure.
_goals: list[dict[str, Any]] = []


def progress(text: str) -> None:
    print(f"... {text}", flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their content; figures to the right."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    for row in cells:
        first, *rest = (
            cell.ljust(w) if at == 0 else cell.rjust(w)
            for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them stay below; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def goal(what: str, measured: float, bound: float, *, at_most: bool = False) -> dict[str, Any]:
    """Prints whether a figure meets its goal; the figure, for the JSON."""
    met = measured <= bound if at_most else measured >= bound
    sign = "<=" if at_most else ">="
    print(f"{'met   ' if met else 'MISSED'}  {what}: {measured:.3g} ({sign} {bound:g})")
    compared = {"goal": what, "measured": measured, "bound": bound, "at_most": at_most, "met": met}
    _goals.append(compared)
    return compared


def facts() -> dict[str, Any]:
    """When and on what machine this is measured."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def finish(name: str, result: dict[str, Any]) -> None:
    """Writes the figures, sends the goals to `python -m benchmarks`, exits with 1 where one was missed."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts() | result, indent=1) + "\n")
    print(f"written to {path}", flush=True)
    Sender().send({"goals": _goals})
    if not all(compared["met"] for compared in _goals):
        sys.exit(1)


def flags() -> list[str]:
    """The instructions that the processor has, by the kernel's names."""
    return (_cpu("flags") or _cpu("Features")).split()


def _processor() -> str:
    name = _cpu("model name") or platform.machine()
    wide = [flag for flag in flags() if flag in WIDE_FLAGS]
    number = f"family {_cpu('cpu family')} model {_cpu('model')}, " if _cpu("cpu family") else ""
    return f"{name} ({number}{' '.join(wide)})"


def _cpu(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty if it has none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
