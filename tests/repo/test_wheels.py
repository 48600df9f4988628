"""What each of the three wheels holds: the service, its default model and the client."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files of the repository, without the weights, which take seconds to compress."""
    pytest.importorskip("setuptools")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    folder = tmp_path_factory.mktemp("source")
    for name in listed.stdout.splitlines():
        if not name.startswith(("docs/", "tests/")) and not name.endswith(".safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def build(project: Path) -> tuple[set[str], Message]:
    """The files in the wheel of a project, and its metadata."""
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
    (wheel,) = project.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = message_from_string(archive.read(metadata).decode())
    return {name for name in names if ".dist-info/" not in name}, about


def version() -> str:
    done = subprocess.run(["scripts/version"], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def files(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder.parent)) for path in folder.rglob(pattern)}


def test_the_wheel_of_the_service_has_its_packages_without_the_model_and_what_makes_it(source: Path) -> None:
    """Every wheel carried the sentence patterns and lists of emoji that the default model learned from."""
    names, about = build(source)
    packages = ("api", "batcher", "millrace", "model_store", "text_files")
    assert {name.partition("/")[0] for name in names} == set(packages)
    code = {name for package in packages for name in files(source / package, "*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    others = {name for name in names if name.startswith("model_store/") and not name.endswith(".py")}
    texts = ("calibration_texts.txt", "training/card.md", "training/report.html")
    assert others == {f"model_store/{name}" for name in texts}
    assert "api/static/index.html" in names
    assert files(source / "batcher", "*.lua") <= names
    assert about["Version"] == version()


def test_the_wheel_of_the_model_has_the_model_only(source: Path) -> None:
    names, about = build(source / "packaging/model")
    assert about["Version"] == version()
    assert names == {f"model_store/{name}" for name in files(source / "model_store/default", "*")}


def test_the_wheel_of_the_client_is_complete_and_needs_httpx_only(source: Path) -> None:
    names, about = build(source / "client")
    package = source / "client/millrace_client"
    assert names == files(package, "*.py") | files(package, "py.typed")
    assert about["Version"] == version()
    assert about.get_all("Requires-Dist") == ["httpx<1,>=0.28"]
