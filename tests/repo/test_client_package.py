"""The client is a distribution that needs httpx only, and not this repository."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "client/millrace_client").glob("*.py"))


def test_its_wheel_is_complete_and_needs_httpx_only(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    shutil.copytree(
        ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "client", check=True, capture_output=True, text=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        facts = message_from_string(archive.read(metadata).decode())
    assert facts.get_all("Requires-Dist") == ["httpx<1,>=0.28"]
    assert {f"millrace_client/{path.name}" for path in MODULES} | {"millrace_client/py.typed"} <= names
    assert not {name.split("/")[0] for name in names} - {"millrace_client", metadata.split("/")[0]}


def test_it_imports_httpx_only() -> None:
    imported = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    top = {name.split(".")[0] for name in imported}
    assert top - set(sys.stdlib_module_names) == {"httpx", "millrace_client"}
