"""The table of the services, as docs/peers.md has it, and the part of it in the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.results import Result

BEGIN = '<!-- Written by `make peers PEERS="--write"`. -->'
END = "<!-- End of what make peers writes. -->"

COLUMNS = (
    *("service", "version", "engine", "new texts/s", "p50 ms (new)", "p99 ms (new)"),
    *("requests/s, 95 % known", "p50 ms (known)", "p99 ms (known)", "errors"),
)
README_COLUMNS = (
    "service",
    "version",
    "new texts/s",
    "p99 ms (new)",
    "requests/s, 95 % known",
    "p99 ms (known)",
)


def whole(results: Sequence[Result], not_installed: Mapping[str, str]) -> list[str]:
    """The lines for comparable results: conditions, figures, and what was not measured and why."""
    measured = [result for result in results if result.loads]
    missing = {result.name: result.reason for result in results if not result.loads} | dict(not_installed)
    lines = [_heading(results), "", _line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    lines += [_line(_cells(result)) for result in measured]
    lines += ["", "Not measured:", "", *(f"- {name}: {reason}" for name, reason in missing.items())]
    return lines


def part(lines: Sequence[str]) -> list[str]:
    """The README's part of a whole table: the same conditions and services, fewer columns."""
    wanted = [COLUMNS.index(name) for name in README_COLUMNS]
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [*lines[:2], *(f"|{'|'.join(row[at] for at in wanted)}|" for row in rows)]


def written(document: str) -> list[str]:
    """The lines between the markers of a document. Raises ValueError if it has no markers."""
    return _split(document)[1].strip("\n").splitlines()


def write(path: Path, lines: Sequence[str]) -> None:
    """Replaces what a document has between the markers. Raises ValueError if it has no markers."""
    before, _, after = _split(path.read_text())
    path.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]))


def _split(document: str) -> tuple[str, str, str]:
    before, begun, rest = document.partition(BEGIN)
    between, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"no {BEGIN} with {END} after it")
    return before, between, after


def _heading(results: Sequence[Result]) -> str:
    under = results[0].conditions
    days = sorted({result.when[:10] for result in results if result.loads}) or [results[0].when[:10]]
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"{under.processor}, {under.cores} cores, {when}, commit {under.commit}, "
        f"{under.seconds:g} s per load, load generator on the same cores."
    )


def _cells(result: Result) -> list[str]:
    new, known = result.loads["new"], result.loads["known"]
    return [
        *(result.name, result.version, result.engine),
        *(f"{new['texts']:,.0f}", f"{new['med']:,.0f}", f"{new['p99']:,.0f}"),
        *(f"{known['requests']:,.0f}", f"{known['med']:,.1f}", f"{known['p99']:,.1f}"),
        f"{100 * max(new['errors'], known['errors']):.1f} %",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
