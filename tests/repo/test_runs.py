"""`python -m tests`: what fails once and passes alone, and what a run left out for want of a tool."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.order import place
from tests.outcomes import MAX_AGAIN
from tests.pauses import Pauses
from tests.service import wait_until
from tests.tools import PROGRAMS

ROOT = Path(__file__).parents[2]
PLUGINS = ("-p", "xdist", "-p", "randomly", "--randomly-seed=7", "--randomly-dont-reorganize")
# `first(name)` is true only in the first process that asks.
PLANTED = """
import os, pathlib, signal
import pytest

def first(name):
    try:
        pathlib.Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

@pytest.fixture
def closed():
    yield
    assert not first("closing"), "left open"

def test_before(): pass
"""
ONCE = "def test_once():\n    assert not first('once'), 'unlucky'\n"
TWICE = "def test_twice():\n    assert os.getpid() == 0, 'always'\n"
CRASH = "def test_crash():\n    if first('crash'): os.kill(os.getpid(), signal.SIGKILL)\n"
TEARDOWN = "def test_teardown(closed): pass\n"
ENDS = "def test_ends(): os._exit(0)\n"
LATER = "def test_later(): pass\n"
SKIPPED = "def test_skipped():\n    if not first('skips'): pytest.skip('not alone')\n    assert False\n"


def run(folder: Path, *tests: str, options: tuple[str, ...] = ("-n", "1"), **changed: str) -> tuple[int, str]:
    """The exit status and the output of a run of these tests, in this order, with changed variables."""
    (folder / "test_planted.py").write_text(PLANTED + "\n".join(tests))
    (folder / "pytest.ini").write_text("[pytest]\n")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests", *options, *PLUGINS, *([] if "--left-out-by" in options else ["."])],
        cwd=folder,
        env=variables | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])} | changed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    return done.returncode, done.stdout


def run_module(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", *words]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)
    return done.stdout


def last_line(output: str) -> str:
    return re.sub(r" in \S+s|=+", "", output.splitlines()[-1]).strip()


def test_what_passes_alone_is_listed_with_what_ran_before_it(tmp_path: Path) -> None:
    status, output = run(tmp_path, ONCE, TEARDOWN, CRASH, LATER)
    assert status == 0, output
    assert last_line(output) == "5 passed, 3 unstable"
    listed = re.findall(r"^unstable: (\S+) seed=7 process=(\S+) after=(\d+)$", output, re.MULTILINE)
    assert listed == [
        ("test_planted.py::test_once", "gw0", "1"),
        ("test_planted.py::test_teardown", "gw0", "2"),
        ("test_planted.py::test_crash", "gw0", "3"),
    ]
    story = output[output.index("test_crash failed first with:") :]
    assert "crashed while running 'test_planted.py::test_crash'" in story
    assert "test_planted.py: test_before, test_once, test_teardown\n" in story
    assert "AssertionError: left open" in output


def test_what_fails_again_or_does_not_run_alone_is_red(tmp_path: Path) -> None:
    status, output = run(tmp_path, ONCE, TWICE, SKIPPED, options=("-n", "0"))
    assert status == 1
    assert last_line(output) == "2 failed, 2 passed, 1 unstable"
    assert re.findall(r"^failed twice: .*::(\w+)$", output, re.MULTILINE) == ["test_twice", "test_skipped"]


def test_a_test_that_ends_its_process_each_time_is_red_and_hides_no_other(tmp_path: Path) -> None:
    """The run ended with a traceback before: status 0, but no record of what became of the test."""
    status, output = run(tmp_path, ENDS, ONCE)
    assert status == 1
    assert last_line(output) == "1 failed, 2 passed, 1 unstable"
    assert re.findall(r"^failed twice: .*::(\w+)$", output, re.MULTILINE) == ["test_ends"]


@pytest.mark.parametrize(
    ("tests", "options", "said"),
    [
        ((ONCE, "import nothing_of_that_name"), ("-n", "1"), "could not be collected"),
        ((ONCE, LATER), ("-n", "0", "-x"), "1 tests did not run"),
        (
            (f"@pytest.mark.parametrize('n', range({MAX_AGAIN + 1}))\ndef test_many(n): assert 0",),
            ("-n", "1"),
            "11 tests failed",
        ),
    ],
    ids=["collection", "stopped", "many"],
)
def test_more_than_bad_luck_is_red_at_once(
    tmp_path: Path, tests: tuple[str, ...], options: tuple[str, ...], said: str
) -> None:
    status, output = run(tmp_path, *tests, options=options)
    assert status != 0
    assert re.search(f"^What failed is not run again: .*{said}", output, re.MULTILINE), output
    assert "is run again alone" not in output


def test_an_interrupted_second_run_is_the_last_and_says_nothing_of_the_others(tmp_path: Path) -> None:
    stopped = (
        "def test_stopped():\n    if not first('it'): os.kill(os.getpid(), signal.SIGINT)\n    assert 0\n"
    )
    status, output = run(tmp_path, stopped, ONCE)
    assert status == pytest.ExitCode.INTERRUPTED
    assert output.count("is run again alone") == 1
    assert "failed twice" not in output


WAITING = """
@pytest.fixture
def child():
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("pids", "a") as file:
        file.write(f"{child.pid} ")
    yield
    child.kill()
    child.wait()
    pathlib.Path(f"cleaned-{child.pid}").touch()

@pytest.mark.parametrize("at", range(2))
def test_waits(child, at):
    import time
    time.sleep(600)
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_a_terminated_run_left_pytest_and_all_that_it_had_started(tmp_path: Path, processes: int) -> None:
    written = tmp_path / "pids"
    begun = max(processes, 1)

    def terminate() -> None:
        wait_until(lambda: written.exists() and len(written.read_text().split()) == begun, "the tests")
        started.extend(psutil.Process(pid) for pid in map(int, written.read_text().split()))
        for child in started[:]:
            started.extend(child.parents()[: 2 if processes else 1])
        (run_of_tests,) = [one for one in psutil.Process().children(recursive=True) if is_run(one)]
        run_of_tests.send_signal(signal.SIGTERM)

    def is_run(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.cmdline()[1:3] == ["-m", "tests"] and process.cwd() == str(tmp_path)
        return False

    started: list[psutil.Process] = []
    with ThreadPoolExecutor() as pool:
        terminating = pool.submit(terminate)
        status, output = run(tmp_path, WAITING, options=("-n", str(processes)))
        terminating.result()
    assert status == 128 + signal.SIGTERM, output
    assert not [one for one in started if one.is_running()]
    assert len(list(tmp_path.glob("cleaned-*"))) == begun, output


def test_services_that_started_last_kept_one_process_busy_while_the_others_had_ended() -> None:
    """`tests/crossings` and `tests/cost` were taken for short tests, which come last."""
    modules = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.e2e" in path.read_text()]
    assert len(modules) > 40
    assert [one for one in modules if not place(str(one.relative_to(ROOT)))] == []


def test_a_green_run_lists_nothing(tmp_path: Path) -> None:
    status, output = run(tmp_path, LATER, options=("-n", "0"))
    assert status == 0
    assert "\nunstable: none\n" in output
    assert last_line(output) == "2 passed"


NEEDS = "def test_{0}():\n    from tests.tools import needs\n    needs('{0}')\n"


def programs(folder: Path, *names: str) -> str:
    """A PATH with these programs and no others."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_what_was_left_out_for_want_of_a_tool_runs_where_it_is(tmp_path: Path) -> None:
    tests = (NEEDS.format("shellcheck"), NEEDS.format("promtool"))
    kept = ("-n", "0", "--outcomes", "bare")
    status, output = run(tmp_path, *tests, options=kept, PATH=programs(tmp_path / "none"))
    assert (status, last_line(output)) == (0, "1 passed, 2 skipped")
    assert "\nleft out: 1 needs shellcheck: it is not on PATH\n" in output
    again = ("-n", "0", "--left-out-by", "bare", "--outcomes", "tools")
    status, output = run(tmp_path, *tests, options=again, PATH=programs(tmp_path / "one", "shellcheck"))
    assert (status, last_line(output)) == (0, "1 passed")
    assert f"\nused shellcheck: {tmp_path}/one/shellcheck\n" in output
    both = run_module(tmp_path, "tests.outcomes", "bare", "tools")
    assert "left out: 1 needs promtool: it is not on PATH" in both
    assert last_line(both) == "2 passed, 1 skipped"


def test_a_tool_that_no_test_uses_fails_the_run(tmp_path: Path) -> None:
    tests = (NEEDS.format("shellcheck"),)
    run(tmp_path, *tests, options=("-n", "0", "--outcomes", "bare"), PATH=programs(tmp_path / "none"))
    path = programs(tmp_path / "two", "shellcheck", "chromium")
    status, output = run(tmp_path, *tests, options=("-n", "0", "--left-out-by", "bare"), PATH=path)
    assert status == 1
    assert output.endswith("On PATH, but no test used it: chromium\n")


def test_a_bare_machine_has_no_tools_and_no_home() -> None:
    code = (
        "import os, sys, tests.tools as t; print([*map(t.find, t.PROGRAMS)], os.listdir(os.environ['HOME']))"
    )
    done = subprocess.run(
        [ROOT / "scripts/bare", "python3", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{[None] * len(PROGRAMS)} []\n", done.stderr


def test_a_bare_machine_has_a_python_whose_path_has_spaces(tmp_path: Path) -> None:
    python = tmp_path / "with spaces" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    code = (
        "import runpy, sys; sys.executable = sys.argv.pop(1); runpy.run_path('scripts/bare', {}, '__main__')"
    )
    words = [sys.executable, "-c", code, python, "python3", "-c", "print('runs')"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr


STOPPED = """
import subprocess, sys
import psutil
from tests.service import wait_until

def test_stopped():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "a stop")
        wait_until(lambda: process.status() != psutil.STATUS_STOPPED, "its end")
        child.terminate()
    assert False, f"pid={child.pid}"
"""


def test_pauses_stop_what_a_test_has_started_and_a_failure_lists_them(tmp_path: Path) -> None:
    status, output = run(tmp_path, STOPPED, options=("-n", "1", "--pauses", "7"))
    assert status == 1
    (pid, *_) = re.findall(r"AssertionError: pid=(\d+)", output)
    assert re.search(rf"^\d+\.\d\d s: {pid} for \d\.\d\d s: \S+python\S* -c input\(\)$", output, re.MULTILINE)


def test_what_a_test_has_stopped_itself_stays_so_until_it_goes_on() -> None:
    pauses = Pauses("7")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        pauses.start()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "a stop")
        pauses.kill(child.pid, signal.SIGSTOP)
        pauses.end()
        assert process.status() == psutil.STATUS_STOPPED
        pauses.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: process.status() != psutil.STATUS_STOPPED, "its end")
        child.terminate()
