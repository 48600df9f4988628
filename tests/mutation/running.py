"""Runs the tests of a mutant in a copy of the repository, each time in a process that is forked.

Not in `__main__`: processes that multiprocessing starts do not import that of a package.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.mutation.covering import RECORDS, Covering
from tests.mutation.mutants import ROOT, Mutant

LIMIT_S = 600
# What a test whose seconds are recorded may take: that many, and as many times those.
MIN_S, TIMES = 20, 5
TEARDOWN_S = 5
# One of so many tests notices most edits. They run by themselves, because collecting thousands takes longer.
FIRST = 25
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
# Those that start no process and no server, which can be run thousands of times.
FOLDERS = ("unit", "integration", "compat", "search", "simulation")
TESTS = ("-m", "not redis and not e2e", *(f"tests/{folder}" for folder in FOLDERS))
OPTIONS = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "60")
RECORDING_PROCESSES = 2
# The searches of `make test` with a real server, whose scripts are not recorded, by what they search.
HISTORIES = {"batcher/core/lua": "QueueMachine", "batcher/jobs": "JobsMachine"}
SEARCHES = ("test_no_history_of_a_real_server_does", "test_a_real_server_does_the_same_as_the_fake_one")
# Files that run in processes of their own, of which nothing is recorded, and the tests that start these.
IN_PROCESSES = {
    "api/server/run.py": ("tests/e2e/test_serving.py",),
    "batcher/jobs/main.py": ("tests/e2e/test_jobs_docs.py", "tests/e2e/test_jobs_foreign.py"),
    "model_store/hub.py": ("tests/integration/test_pull.py",),
    "model_store/pickles.py": ("tests/integration/test_pull.py",),
}
# pytest's status for an error of usage, and for having found no tests.
NO_TESTS = (4, 5)


def copy_of_repository(folder: Path) -> Path:
    """The tracked and new files, without what git ignores."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def record(folder: Path, records: Path) -> Covering:
    """Runs all tests in a copy, unless `records` has been written. Raises SystemExit if one fails."""
    if not records.exists():
        command = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            *OPTIONS,
            "--timeout",
            "600",
            "-n",
            str(RECORDING_PROCESSES),
        ]
        command += ["-p", "tests.mutation.covering", *TESTS]
        with tempfile.TemporaryDirectory(prefix="mutation-records-") as name:
            # Variables of pytest-xdist, if this runs in one of its processes, would make the new one another.
            variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
            variables |= {RECORDS: name, "PYTHONPATH": import_path(folder)}
            run = subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE)
            if run.returncode:
                raise SystemExit(f"Without a mutant, tests fail:\n{run.stdout.decode()[-3000:]}")
            shutil.copytree(name, records)
    return Covering.read(records)


def unrecorded(mutant: Mutant) -> list[str]:
    """The tests of other processes: of the edited file, or the histories of a real server.

    These are run where the edit is in the scripts or in jobs.
    """
    machines = [machine for part, machine in HISTORIES.items() if mutant.file.startswith(part)]
    searches = [
        f"tests/search/test_search.py::{name}[{machine}]" for machine in machines for name in SEARCHES
    ]
    return [*IN_PROCESSES.get(mutant.file, ()), *searches]


def import_path(folder: Path) -> str:
    """PYTHONPATH of processes that run the code of a copy."""
    return os.pathsep.join([str(folder), str(folder / "client")])


class Reporter:
    """As a plugin of pytest: reports each test that starts, and those that fail, to another process."""

    def __init__(self, process: Connection) -> None:
        self._report = process.send

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._report(("starts", nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self._report(("fails", report.nodeid))

    pytest_collectreport = pytest_runtest_logreport


def run_tests(folder: Path, words: list[str], output: Path, parent: Connection) -> None:
    """In a separate process, which has imported everything but the repository."""
    os.setsid()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": import_path(folder), "TMPDIR": str(output.parent)}
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    parent.send(("ends", int(pytest.main(words, plugins=[Reporter(parent)]))))


def first_failure(folder: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> str:
    """The first of these tests that fails in a copy, or takes much longer than its `seconds` there; or ""."""
    parts = (tests[:FIRST], tests[FIRST:])
    return next(filter(None, (_first_failure(folder, part, seconds) for part in parts if part)), "")


def _first_failure(folder: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Of a test with parameters of the code, such as its routes, an edit may remove some: all others run."""
    try:
        return _run(folder, tests, seconds)
    except LookupError as error:
        lost = set(re.findall(rf"not found: {re.escape(str(folder))}/(\S+)\n", str(error)))
        functions = [(test, test.partition("[")[0]) for test in tests if test not in lost]
        left = [*dict.fromkeys(function if function in lost else test for test, function in functions)]
        if left == [*tests]:
            raise SystemExit(f"pytest found nothing to run:\n{str(error)[-2000:]}") from None
        return _first_failure(folder, left, seconds) if left else ""


def _run(folder: Path, tests: Sequence[str], seconds: Mapping[str, float]) -> str:
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as name:
        output, names = Path(name) / "output", Path(name) / "tests"
        names.write_text("\n".join(tests))
        words = ["-x", "-n", "0", *OPTIONS]
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are IMPORTED
        events, parent = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=run_tests, args=(folder, [*words, f"@{names}"], output, parent))
        process.start()
        parent.close()
        try:
            return _verdict(events, output, seconds)
        finally:
            process.join(TEARDOWN_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.ident or 0, signal.SIGKILL)
            process.join()


def _verdict(events: Connection, output: Path, seconds: Mapping[str, float]) -> str:
    test, limit_s = "collecting the tests", LIMIT_S
    while events.poll(limit_s):
        try:
            what, test = events.recv()
        except EOFError:
            return f"the process ends during {test}"
        if what == "fails":
            return str(test)
        if what == "ends" and test in NO_TESTS:
            raise LookupError(output.read_text())
        if what == "ends":
            return f"the process ends with status {test}" if test else ""
        limit_s = MIN_S + TIMES * seconds[test] if test in seconds else LIMIT_S
    return f"{test} hangs"
