"""A process of pytest-xdist that crashes must say how, or the cause cannot be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crashes import ending

ROOT = Path(__file__).parents[2]
CRASH = "import os, signal\ndef test_crash():\n    os.kill(os.getpid(), signal.SIGKILL)\n"


def test_the_report_of_a_crash_names_the_signal(tmp_path: Path) -> None:
    (tmp_path / "test_crash.py").write_text(CRASH)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_handlecrashitem\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "1", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 1
    assert "running 'test_crash.py::test_crash'\nThe process was ended by SIGKILL." in run.stdout


@pytest.mark.parametrize(
    ("code", "counts", "said"),
    [
        ("raise SystemExit(3)", "nr_dirty 0\noom_kill 2\n", ("exited with status 3.", "want of memory: 2")),
        ("import os; os.abort()", "", ("was ended by SIGABRT.", "want of memory: unknown")),
    ],
)
def test_a_status_and_the_kills_for_want_of_memory_are_named(
    tmp_path: Path, code: str, counts: str, said: tuple[str, str]
) -> None:
    (tmp_path / "counts").write_text(counts)
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        text = ending(process, tmp_path / "counts")
    assert all(part in text for part in said)
    assert "unknown" in ending(process, tmp_path / "missing")
