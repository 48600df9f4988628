"""Runs the tests that run a file of batcher: python -m tests.mutation.tests_of batcher/hub/hub.py

The first time it records what the tests run, as `make mutants` does: minutes. `.tests-of` keeps it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.covering import Covering
from tests.mutation.mutants import ROOT
from tests.mutation.running import copy_of_repository, record

RECORDS = ROOT / ".tests-of"


def tests_of(file: str, covering: Covering) -> list[str]:
    """Shortest first, without those whose module has been removed since."""
    tests = set().union(*covering.lines.get(file, {}).values())
    there = {test for test in tests if (ROOT / test.partition("::")[0]).is_file()}
    return sorted(there, key=lambda test: (covering.seconds.get(test, 0.0), test))


def main(words: Sequence[str], records: Path = RECORDS) -> int:
    """Returns pytest's exit status."""
    if len(words) != 1 or not words[0].startswith("batcher/") or not (ROOT / words[0]).is_file():
        print("FILE must be a Python file of batcher, e.g. make tests-of FILE=batcher/hub/hub.py")
        return 2
    if not records.exists():
        print("Recording what the tests run, which takes minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="tests-of-") as name:
        folder = Path(name)
        covering = record(folder if records.exists() else copy_of_repository(folder), records)
        tests = tests_of(words[0], covering)
        if not tests:
            print(f"No recorded test runs {words[0]}. If it is new, remove {records} to record again.")
            return 1
        (folder / "names").write_text("\n".join(tests))
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"@{folder / 'names'}"], cwd=ROOT, check=False
        ).returncode
    if status == 4:  # pytest's status for a name that it does not find
        print(f"Tests have changed since they were recorded: remove {records} to record again.")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
