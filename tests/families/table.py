"""Writes the tables of families into docs/families.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.families.checkpoints import families
from tests.lazy import transformers

PAGE = Path(__file__).parents[2] / "docs/families.md"
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->\n"
BEGIN_PRECISIONS, END_PRECISIONS = "<!-- precisions -->\n", "<!-- end of precisions -->\n"


def read_results(results: Path, *precisions: str) -> list[dict[str, Any]]:
    """The last result of each family in each of these precisions in a file of JSON lines, by name."""
    every = map(json.loads, results.read_text("utf-8").splitlines())
    named = (one for one in every if one["family"] in families() and one["precision"] in precisions)
    found = {(one["family"], one["precision"]): one for one in named}
    return [found[place] for place in sorted(found)]


def write_tables(results: Path) -> None:
    """Replace the tables of docs/families.md for whose precisions there are results."""
    if f32 := read_results(results, "f32"):
        _replace(BEGIN, END, lines(f32))
    if others := read_results(results, "bf16", "int8"):
        _replace(BEGIN_PRECISIONS, END_PRECISIONS, precision_lines(others))


def _replace(begin: str, end: str, table: Iterable[str]) -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(before + begin + "".join(table) + end + after, "utf-8")


def precision_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table of precisions: families that are served in the same way share one."""
    yield "\n| asked for | served | families | largest difference | of its limit |\n"
    yield "|---|---|---|---|---|\n"
    for one in results:
        one["place"] = f"{one['precision']} | {one['served'] if not one['refused'] else 'refused'}"
    for place, same in _grouped(results, "place"):
        furthest = max(same, key=lambda one: max(one["alone"], one["batch"]) / one["limit"])
        difference = max(max(one["alone"], one["batch"]) for one in same)
        share = max(furthest["alone"], furthest["batch"]) / furthest["limit"]
        names = ", ".join(one["family"] for one in same)
        yield f"| {place} | {names} | {difference:.1g} | {share:.0%} ({furthest['family']}) |\n"
    yield "\n"


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
