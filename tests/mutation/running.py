"""Runs the tests of a mutant's part in a copy of the repository, each time in a process that is forked.

Not in `__main__`: processes that multiprocessing starts do not import that of a package.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.mutation.mutants import ROOT

LIMIT_S = 600
# Each run forks from a process that has imported these, which takes longer than most tests.
IMPORTED = (
    "pytest",
    "fakeredis",
    "fastapi",
    "httpx",
    "hypothesis.stateful",
    "numpy",
    "rq",
    "uvicorn",
    "yaml",
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([*IMPORTED, "tests.mutation.mutants"])
UNIT = ("-m", "not redis and not e2e")
QUEUE = ("tests/integration/test_queue_contract.py", "tests/integration/test_queue_findings.py")
ROAD = (
    "tests/integration/test_road.py",
    "tests/integration/test_pipeline.py",
    "tests/integration/test_failover.py",
)
JOBS = (
    "tests/integration/test_jobs_store.py",
    "tests/unit/batcher/test_jobs_queue.py",
    "tests/unit/batcher/test_jobs_run.py",
    "tests/unit/batcher/test_jobs_company.py",
    "tests/unit/batcher/webhooks",
    "tests/unit/api/jobs",
    "tests/integration/test_jobs_lane.py",
)
# The tests of a part, by the start of its files' names; each command runs until a test fails.
TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "batcher/core/lua": ((*UNIT, *QUEUE), ("tests/search", "-k", "QueueMachine"), (*UNIT, *ROAD)),
    "batcher/jobs": ((*UNIT, *JOBS), ("tests/search", "-k", "JobsMachine")),
    "batcher": ((*UNIT, "tests/unit/batcher", *ROAD, *QUEUE), (*UNIT, "tests/unit/api", "tests/integration")),
}


def copy_of_repository(folder: Path) -> Path:
    """The tracked and new files, without what git ignores."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(folder: Path, words: list[str], output: Path) -> None:
    """In a process of its own, which has imported everything but the repository."""
    os.chdir(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(pytest.main(words))


def first_failure(folder: Path, file: str) -> str:
    """The first test that fails in a copy; "" if none does."""
    part = next(part for part in TESTS if file.startswith(part))
    with tempfile.TemporaryDirectory(prefix="mutant-output-") as name:
        output = Path(name) / "output"
        for tests in TESTS[part]:
            words = ["-x", "-q", "-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "60"]
            words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are IMPORTED
            process = PROCESSES.Process(target=run_tests, args=(folder, [*words, *tests], output))
            process.start()
            process.join(LIMIT_S)
            if process.is_alive():
                process.kill()
                process.join()
                return "hangs"
            if process.exitcode:
                said = output.read_text()
                found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
                if not found:
                    raise SystemExit(f"pytest itself failed with status {process.exitcode}:\n{said[-2000:]}")
                return found[1]
    return ""
