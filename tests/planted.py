"""Repairs that can be taken out of a copy of the repository, for tests and searches to notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """In one file, what makes it right and what was there before."""

    file: str
    correct: str
    wrong: str


class Planted(NamedTuple):
    """The opposite of a repair.

    `tests` are those that notice it, as arguments of pytest, and `promises` those that crossings find broken.
    """

    name: str
    edits: Sequence[Edit]
    tests: Sequence[str] = ()
    promises: Sequence[str] = ()

    def apply(self, folder: Path) -> None:
        """Takes the repair out. Raises LookupError if the place has changed."""
        for edit in self.edits:
            path = folder / edit.file
            text = path.read_text()
            if text.count(edit.correct) != 1:
                raise LookupError(f"{self.name}: its place in {edit.file} is not found once")
            path.write_text(text.replace(edit.correct, edit.wrong))
