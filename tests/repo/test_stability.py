"""The public names of docs/stability.md against the recorded ones, so that none changes by accident."""

from __future__ import annotations

import json

import pytest

from tests.repo.manifests import ROOT
from tests.repo.public_names import RECORD, public_names

PAGE = (ROOT / "docs/stability.md").read_text()
AGAIN = (
    "Names that were removed or changed break users: docs/stability.md says when that is allowed. "
    "Record the new list with: python -m tests.repo.public_names"
)


@pytest.fixture(scope="module")
def present() -> dict[str, list[str]]:
    return public_names()


@pytest.mark.parametrize("group", ["settings", "metrics", "routes", "client", "commands"])
def test_public_names_are_the_recorded_ones(present: dict[str, list[str]], group: str) -> None:
    recorded = json.loads(RECORD.read_text())
    assert recorded.keys() == present.keys()
    removed = sorted(set(recorded[group]) - set(present[group]))
    added = sorted(set(present[group]) - set(recorded[group]))
    assert (removed, added) == ([], []), AGAIN
    assert present[group]


def test_the_page_covers_every_group() -> None:
    for heading in ("HTTP", "Settings", "Metrics", "Commands", "Python client", "Keys in Redis", "Files"):
        assert f"| {heading} |" in PAGE, heading
