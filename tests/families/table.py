"""Writes the table of families into docs/models.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import transformers

PAGE = Path(__file__).parents[2] / "docs/models.md"
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->\n"


def read_results(results: Path) -> list[dict[str, Any]]:
    """The last result of each family in a file of JSON lines, by name."""
    found = {one["family"]: one for one in map(json.loads, results.read_text("utf-8").splitlines())}
    return [found[name] for name in sorted(found)]


def write_table(results: Path) -> None:
    """Replace the table of docs/models.md by these results."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "".join(lines(read_results(results))) + END + after, "utf-8")


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table: families with the same outcome share one."""
    served = [one for one in results if not one["refused"]]
    version = transformers.__version__
    yield f"\nOf {len(results)} architectures of transformers {version}, {len(served)} are served:\n\n"
    yield "| how | families | largest difference |\n|---|---|---|\n"
    for how, same in _grouped(served, "how"):
        difference = max(max(one["alone"], one["batch"]) for one in same)
        yield f"| {how} | {', '.join(one['family'] for one in same)} | {difference:.0e} |\n"
    yield "\nThe others are refused:\n\n| family | reason |\n|---|---|\n"
    for one in results:
        if one["refused"]:
            yield f"| {one['family']} | {one['refused'].replace('|', '/')} |\n"
    yield "\n"


def _grouped(results: Iterable[dict[str, Any]], key: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for value, same in groupby(
        sorted(results, key=lambda one: (one[key], one["family"])), key=lambda one: one[key]
    ):
        yield value, list(same)
