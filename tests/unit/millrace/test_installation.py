"""Other distributions and folders that have the names of our packages are reported before any import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.installation import check_packages

ROOT = Path(__file__).parents[3]


def install(site: Path, name: str, *files: str) -> None:
    """What pip leaves of a wheel: its files and their list."""
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("")
    about = site / f"{name}-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_this_installation_passes() -> None:
    check_packages()


def test_a_distribution_that_wrote_into_our_packages_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "harmless", "apis/settings.py", "harmless/api/settings.py")
    install(tmp_path, "Some.Client", "some_client.py", "batcher/extra.py")
    monkeypatch.syspath_prepend(tmp_path)
    sys.path.append(sys.path.pop(0))  # beside ours, as in one folder of packages
    with pytest.raises(CommandError) as raised:
        check_packages()
    assert str(raised.value) == (
        "the distribution Some.Client 1.2 installed files into the package batcher, which belongs to this "
        "program: uninstall Some.Client, then install millrace-server again."
    )


def test_our_model_is_no_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "millrace_server_model", "model_store/default/config.json")
    monkeypatch.syspath_prepend(tmp_path)
    sys.path.append(sys.path.pop(0))
    check_packages()


@pytest.mark.parametrize("safe_path", [True, False])
def test_a_folder_in_the_working_directory_is_named_or_not_looked_at(tmp_path: Path, safe_path: bool) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api/__init__.py").write_text("raise SystemExit('the folder was imported')")
    command = [sys.executable, "-m", "millrace", "key", "new", "someone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1" if safe_path else ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if safe_path:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert done.stderr == (
            f"millrace key: Python finds the package api in {tmp_path / 'api'}, which does not belong to "
            "this program: remove it from the current directory or from PYTHONPATH.\n"
        )
