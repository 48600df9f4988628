"""The scripts of a release: one version in every file, notes, and links that work on a package page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.repo.manifests import ROOT


def script(name: str) -> ModuleType:
    """A Python script without an extension, as a module."""
    spec = spec_from_loader(name, SourceFileLoader(name, str(ROOT / "scripts" / name)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder of byte code beside the scripts."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def version(no_cache: None) -> ModuleType:
    return script("version")


@pytest.fixture
def copy(tmp_path: Path, version: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that name the version, and the changelog, in a folder that is the current one."""
    for name in (*version.PLACES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace(
            version.UNRELEASED, f"{version.UNRELEASED}\n### Added\n\n- a thing\n", 1
        )
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_version_is_in_every_file(copy: Path, version: ModuleType) -> None:
    before = version.current(copy)
    assert version.main(["987.6.5"]) == 0
    assert version.current(copy) == "987.6.5"
    for name in version.PLACES:
        named = rf"(?:[Vv]ersion|VERSION|api|worker|newTag)[\" =:]+{re.escape(before)}"
        assert not re.search(named, (copy / name).read_text()), name
    assert tomllib.loads((copy / "pyproject.toml").read_text())["project"]["version"] == "987.6.5"
    changelog = (copy / "CHANGELOG.md").read_text()
    assert re.search(r"## \[Unreleased\]\n\n## \[987\.6\.5\] - \d{4}-\d\d-\d\d\n", changelog)
    assert version.notes(changelog, "987.6.5").startswith("### ")


@pytest.mark.parametrize("given", ["0.0.1", "next", "v9.0.0"])
def test_what_is_not_a_later_version_is_refused(copy: Path, version: ModuleType, given: str) -> None:
    before = version.current(copy)
    assert version.main([given]) == 2
    assert version.current(copy) == before


def test_files_with_different_versions_are_reported(copy: Path, version: ModuleType) -> None:
    (copy / "charts/millrace/Chart.yaml").write_text("version: 9.9.9\n")
    with pytest.raises(SystemExit, match="different versions"):
        version.current(copy)


def test_notes_are_one_section_of_the_changelog(version: ModuleType) -> None:
    text = "## [Unreleased]\n\n## [0.3.0] - 2027-01-01\n\n- new\n\n## [0.2.0] - 2026-12-01\n\n- old\n"
    assert version.notes(text, "0.3.0") == "- new"
    assert version.notes(text, "0.2.0") == "- old"
    with pytest.raises(SystemExit, match=r"nothing for 0\.4\.0"):
        version.notes(text, "0.4.0")


def test_the_readme_has_no_relative_link_on_a_package_page(no_cache: None) -> None:
    page = script("package-page")
    text = page.absolute((ROOT / "README.md").read_text(), "https://example.com/o/n", "v1.2.3")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert "https://example.com/o/n/blob/v1.2.3/docs/settings.md" in links
    assert "https://example.com/o/n/raw/v1.2.3/docs/images/send-50.webp" in links
    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []
    urls = tomllib.loads(page.urls("https://example.com/o/n"))["project"]["urls"]
    assert urls["Changelog"] == "https://example.com/o/n/blob/main/CHANGELOG.md"


def test_workflows_run_scripts_and_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = []
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands += [step["run"] for step in job["steps"] if "run" in step]
    named = "\n".join(commands)
    assert {name for name in re.findall(r"scripts/[\w-]+", named) if not (ROOT / name).is_file()} == set()
    targets = set(re.findall(r"\bmake ([\w-]+)", named))
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.M)} == set()


def test_deliver_says_what_it_skips_and_why(tmp_path: Path) -> None:
    """Without docker and kind on PATH."""
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [ROOT / "scripts/deliver", "images", "kind"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    skipped = [line.split(":")[0] for line in done.stdout.splitlines() if line]
    assert skipped == ["skipped  images", "skipped  kind"]
