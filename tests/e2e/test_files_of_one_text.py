"""scripts/road: which files one text runs through, in real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

ROOT = Path(__file__).parents[2]
# A reader follows these, and turns pages so often. Each more has to be worth it. The order of calls, and so
# the changes of file, vary with what the processes do at the same time.
MAX_FILES = {"known text": 6, "unknown text": 24}
MAX_CHANGES = {"known text": 17, "unknown text": 110}
SCRIPTS = {f"batcher/core/lua/{name}.lua" for name in ("enqueue", "claim", "complete", "common")}


def test_one_text_crosses_few_files_and_the_documentation_names_each() -> None:
    words = [sys.executable, str(ROOT / "scripts/road"), "--rounds", "20"]
    printed = subprocess.run(words, check=True, capture_output=True, text=True, timeout=200).stdout
    files: dict[str, set[str]] = {}
    changes: dict[str, float] = {}
    found = set[str]()
    for line in printed.splitlines():
        if line.startswith(" "):
            found.add(line.strip())
        else:
            kind = line.partition(":")[0]
            found = files.setdefault(kind, set())
            changes[kind] = float(line.split(",")[-1].split()[0])
    assert {kind: len(names) for kind, names in files.items() if len(names) > MAX_FILES[kind]} == {}
    assert {kind: number for kind, number in changes.items() if number > MAX_CHANGES[kind]} == {}
    assert files.keys() == MAX_FILES.keys()
    assert files["unknown text"] >= SCRIPTS | files["known text"]
    page = (ROOT / "docs/architecture.md").read_text()
    assert [name for name in sorted(files["unknown text"]) if name not in page] == []
