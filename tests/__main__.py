"""Runs pytest, and what fails in it once more, alone and in a new process.

    python -m tests [--outcomes FILE] [--left-out-by FILE] [pytest option...]

What passes alone leaves the run green and is listed as `unstable`, with its failure, the seed, and what ran
before it in its process. Nothing is run again after an error of collection, after more than ten failures, and
where a run was interrupted. `--outcomes` keeps what became of each test. `--left-out-by` runs the tests that
the run which wrote this file left out for want of a tool, or with another server, where the tool is here
now; it fails if no test used a tool that is here. `--pauses SEED` stops processes for a moment
(tests/pauses.py).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from tests.outcomes import Run, closing
from tests.tools import PROGRAMS, find, needed

# How long tests may take to end what they started.
_CLEAN_UP_S = 30


class Terminated(SystemExit):
    """SIGTERM has arrived."""


def run(words: Sequence[str], record: Path) -> int:
    """Runs pytest in a new process, which writes `record`. Returns its exit status.

    Raises Terminated once pytest and all that it started have ended.
    """
    plugins = ["-p", "tests.pauses", "-p", "tests.outcomes", f"--outcomes={record}"]
    command = [sys.executable, "-m", "pytest", *words, *plugins]
    with subprocess.Popen(command) as pytest_process:
        try:
            return pytest_process.wait()
        except Terminated:
            end(psutil.Process(pytest_process.pid))
            raise


def end(process: psutil.Process) -> None:
    """Ends pytest as Ctrl-C does, with the processes in which it runs tests, which clean up after theirs.

    Kills what has not ended by then.
    """
    workers = [process, *process.children()]
    every = [process, *process.children(recursive=True)]
    for one in workers:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGINT)
    psutil.wait_procs(workers, timeout=_CLEAN_UP_S)
    for one in every:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def run_again(first: Run, folder: Path) -> list[str]:
    """Runs each test that failed alone. Returns those that pass then. Raises SystemExit at Ctrl-C."""
    passed = []
    for number, test in enumerate(first.failed()):
        print(f"\n{test} failed and is run again alone", flush=True)
        seed = [] if first.seed is None else [f"--randomly-seed={first.seed}"]
        record = folder / f"again-{number}"
        status = run([*first.options, *seed, "-n", "0", test], record)
        if status == pytest.ExitCode.INTERRUPTED:
            raise SystemExit(status)
        # Without a record the test has ended the process, with whatever status.
        if status == 0 and record.exists() and Run.read(record).tests[test].result == "passed":
            passed.append(test)
    return passed


def story(run: Run, test: str) -> Iterator[str]:
    """What is known of a test that failed and passed alone."""
    outcome, before = run.tests[test], run.before(test)
    yield f"\n{test} failed first with:"
    yield outcome.reason
    yield f"Before it, {len(before)} tests ran in {outcome.process}:"
    for module, names in groupby(before, lambda name: name.partition("::")[0]):
        yield f"  {module}: {', '.join(name.partition('::')[2] for name in names)}"


def run_twice(words: Sequence[str], folder: Path) -> tuple[int, Run | None]:
    """Runs pytest, and what fails once more. Returns the exit status and what became of each test."""
    began = time.monotonic()
    status = run(words, folder / "first")
    try:
        first = Run.read(folder / "first")
    except OSError:  # an error in the options, for example
        return status or 1, None
    if status != pytest.ExitCode.TESTS_FAILED or not first.failed() or first.why_not_again():
        return status or int(bool(first.errors)), first
    for test in run_again(first, folder):
        print(*story(first, test), sep="\n")
        outcome = first.tests[test]
        place = f"process={outcome.process} after={len(first.before(test))}"
        first.unstable.append(f"unstable: {test} seed={first.seed} {place}")
        outcome.result = "passed"
    failed = first.failed()
    first.seconds = time.monotonic() - began
    print("", *(f"failed twice: {test}" for test in failed), *first.unstable, closing([first]), sep="\n")
    return (1 if failed else 0), first


def left_out(other: Run) -> list[str]:
    """The tests that need a tool that is here now, and that this run did not use."""
    here = {tool for tool in PROGRAMS if (path := find(tool)) and path not in other.binaries.get(tool, ())}
    return [test for test, outcome in other.tests.items() if here.intersection(outcome.tools)]


def unused(done: Run | None) -> list[str]:
    """The tools that are here, and that no test has used or said why they cannot be used."""
    reached = {
        tool
        for outcome in (done.tests.values() if done else ())
        for tool in (needed(outcome.reason) if outcome.result == "skipped" else outcome.tools)
    }
    return [tool for tool in PROGRAMS if find(tool) and tool not in reached]


def terminated(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough
    raise Terminated(128 + signal.SIGTERM)


def main(words: Sequence[str]) -> int:
    """Returns the exit status: that of pytest, and 0 if what failed passes alone."""
    parser = argparse.ArgumentParser(prog="python -m tests", allow_abbrev=False, add_help=False)
    parser.add_argument("--outcomes", type=Path)
    parser.add_argument("--left-out-by", type=Path)
    args, options = parser.parse_known_args(words)
    # pytest ends by itself at Ctrl-C, and then this does.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, terminated)
    with tempfile.TemporaryDirectory(prefix="millrace-tests-") as name:
        folder = Path(name)
        if args.left_out_by:
            os.environ.setdefault("TEST_REDIS_SERVER", find("redis-server") or "")
            try:
                chosen = left_out(Run.read(args.left_out_by))
            except OSError as error:
                raise SystemExit(f"That run has not ended: {error}") from error
            if not chosen:  # without names, pytest would run everything
                print("No test was left out for want of a tool that is here.")
                return 0
            (folder / "chosen").write_text("\n".join(chosen))
            options = [*options, f"@{folder / 'chosen'}"]
        status, done = run_twice(options, folder)
        if done and args.outcomes:
            done.write(args.outcomes)
    if args.left_out_by and (tools := unused(done)):
        print(f"On PATH, but no test used it: {', '.join(tools)}")
        return status or 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
