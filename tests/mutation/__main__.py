"""Edits the queue's code in small ways and shows which edits no test notices.

    python -m tests.mutation [--sample 300] [--seed 1] [--from 0] [--to 300] [--only TEXT]

Each mutant is one edit of a copy of the repository, where the tests of the edited part run, fast ones first,
until one fails. Mutants are drawn by the seed, one half from the scripts and one half from Python. `--only`
keeps those whose line, as it is printed, contains TEXT. Those that `lives.toml` explains need no test. The
status is 1 if any other lives.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.mutation.mutants import ROOT, Mutant, sample

LIVES = Path(__file__).with_name("lives.toml")
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


def label(mutant: Mutant) -> str:
    """As it is printed: place, line before and line after."""
    number, before, after = mutant.lines((ROOT / mutant.file).read_text())
    return f"{mutant.file}:{number} | {before} | {after}"


def explained(mutant: Mutant) -> str:
    """Why no test needs to notice a mutant; "" if that is not known."""
    _, before, after = mutant.lines((ROOT / mutant.file).read_text())
    for one in tomllib.loads(LIVES.read_text())["lives"]:
        if (one["file"], one["line"], one["becomes"]) == (mutant.file, before, after):
            return str(one["why"])
    return ""


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


def run(mutants: list[Mutant], folder: Path, first: int) -> Counter[str]:
    """Prints what becomes of each mutant, and counts."""
    outcomes: Counter[str] = Counter()
    for number, mutant in enumerate(mutants, first + 1):
        began, path = time.monotonic(), folder / mutant.file
        original = path.read_text()
        path.write_text(mutant.applied(original))
        try:
            failure = first_failure(folder, mutant.file)
        finally:
            path.write_text(original)
        why = "" if failure else explained(mutant)
        outcome = "found" if failure else "explained" if why else "lives"
        outcomes[outcome] += 1
        spent = time.monotonic() - began
        print(f"{number:4} {outcome:9} {spent:5.1f} s | {label(mutant)} | {failure or why}", flush=True)
    return outcomes


def main() -> int:
    """Runs a sample. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first", help="skip as many of the sample")
    parser.add_argument("--to", type=int, help="end after this one of the sample")
    parser.add_argument("--only", default="", help="only mutants whose line contains this")
    args = parser.parse_args()
    drawn = sample(args.sample, args.seed)[args.first : args.to]
    mutants = [one for one in drawn if args.only in label(one)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = copy_of_repository(Path(name))
        for part in TESTS:
            if any(one.file.startswith(part) for one in mutants) and (failure := first_failure(folder, part)):
                raise SystemExit(f"Without a mutant, {failure} fails.")
        outcomes = run(mutants, folder, args.first)
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return 1 if outcomes["lives"] else 0


if __name__ == "__main__":
    sys.exit(main())
