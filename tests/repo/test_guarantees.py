"""docs/guarantees.md and docs/findings.md map every fault to tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS, FINDINGS = ((ROOT / f"docs/{page}.md").read_text() for page in ("guarantees", "findings"))
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", FAULTS + FINDINGS)


def test_every_one_of_the_faults_has_a_row_with_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*`tests/[\w/]+\.py::\w+`", FAULTS, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 33))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{path}::{name}" for path, name in NAMED])
def test_the_named_test_exists(path: str, name: str) -> None:
    source = (ROOT / path).read_text()
    assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE)
