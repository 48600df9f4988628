"""The last result of each service, kept as JSON, so that several runs of one commit make one table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import report
from benchmarks.peers.catalogue import ROOT


@dataclass(frozen=True, slots=True)
class Conditions:
    """What results must have in common to stand in one table. `seconds`: duration of a load."""

    commit: str
    processor: str
    cores: int
    seconds: float

    @classmethod
    def here(cls, seconds: float) -> Conditions:
        """Those of a run that starts now."""
        facts = report.facts()
        return cls(commit(), facts["processor"], facts["cores"], seconds)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of a service at `when` (ISO 8601), or the reason why nothing was.

    `loads`: for each load, the figures of `__main__.load`.
    """

    name: str
    when: str
    conditions: Conditions
    version: str = ""
    engine: str = ""
    loads: dict[str, dict[str, float]] = field(default_factory=dict)
    reason: str = ""


def commit() -> str:
    """The commit that is checked out, with "-dirty" after it if tracked files were changed since."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def keep(result: Result, folder: Path) -> None:
    """Replaces the last result of the service."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.name}.json").write_text(json.dumps(asdict(result), indent=1) + "\n")


def kept(folder: Path) -> list[Result]:
    """The last result of every service that has one."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [Result(**{**each, "conditions": Conditions(**each["conditions"])}) for each in found]


def comparable(results: Iterable[Result], names: Iterable[str]) -> list[Result]:
    """One result for each name, in this order, all under the conditions of the newest result.

    Names without such a result get one that says so. Raises ValueError if there are no results at all.
    """
    by_name = {result.name: result for result in results}
    if not by_name:
        raise ValueError("no results are kept: run without --write first")
    newest = max(by_name.values(), key=lambda result: result.when)
    absent = {name: Result(name, newest.when, newest.conditions, reason="not run") for name in names}
    matching = {name: result for name, result in by_name.items() if result.conditions == newest.conditions}
    return [matching.get(name, result) for name, result in absent.items()]
