"""The scripts of a release: one version in every file, notes, and links that work on a package page."""

from __future__ import annotations

import os
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


def test_a_development_version_is_between_two_releases(copy: Path, version: ModuleType) -> None:
    """Commits after a release called themselves that release."""
    assert version.main(["987.6.5"]) == 0
    changelog = (copy / "CHANGELOG.md").read_text()
    assert version.main(["987.7.0.dev0"]) == 0
    assert version.current(copy) == "987.7.0.dev0"
    chart = yaml.safe_load((copy / "charts/millrace/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == ("987.7.0-dev0", "987.7.0.dev0"), "Helm needs SemVer"
    assert (copy / "CHANGELOG.md").read_text() == changelog
    assert version.main(["987.6.6"]) == 2
    assert version.main(["987.7.0"]) == 0
    assert version.main(["987.7.0.dev0"]) == 2
    assert "-dev" not in (copy / "charts/millrace/Chart.yaml").read_text()


def commit(*words: str) -> str:
    """A commit of all files of the current folder; returns its hash."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "--message", *words], check=True)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()


def test_181_commits_after_a_release_still_called_themselves_that_release(
    copy: Path, version: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make deliver` refuses them, and the tag is on the commit that set the version."""
    for name, value in (("NAME", "a"), ("EMAIL", "a@example.com")):
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    (copy / "scripts").mkdir()
    for name in ("deliver", "version"):
        shutil.copy(ROOT / "scripts" / name, copy / "scripts" / name)
    subprocess.run(["git", "init", "--quiet"], check=True)
    commit("Before")
    assert version.main(["987.6.5"]) == 0
    released = commit("Release")

    def deliver() -> tuple[int, str]:
        command = ["scripts/deliver", "version"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        return done.returncode, done.stderr

    status, said = deliver()
    assert (status, "scripts/version --tag" in said, "987.7.0.dev0" in said) == (1, True, True)
    commit("After")
    assert version.main(["--tag"]) == 0
    assert released in capsys.readouterr().out
    tagged = subprocess.check_output(["git", "rev-list", "-1", "v987.6.5"], text=True).strip()
    assert tagged == released
    assert deliver()[0] == 1, "the commit after it"
    assert version.main(["987.7.0.dev0"]) == 0
    assert deliver()[0] == 0
    with pytest.raises(SystemExit, match="only releases are tagged"):
        version.main(["--tag"])
    subprocess.run(["git", "checkout", "--quiet", "--force", released], check=True)
    assert deliver()[0] == 0
    with pytest.raises(SystemExit, match="already exists"):
        version.main(["--tag"])


@pytest.mark.parametrize("given", ["0.0.1", "next", "v9.0.0", "9.0.0.dev1", "9.0.0-dev0"])
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


def test_a_release_links_its_alerts_to_its_own_documents(no_cache: None, tmp_path: Path) -> None:
    page = script("package-page")
    for name in (
        *page.RUNBOOKS,
        "README.md",
        *(f"{p}/pyproject.toml" for p in (".", "packaging/model", "client")),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    page.main(str(tmp_path), "https://example.org/o/n", "v1.2.3")
    for name in page.RUNBOOKS:
        text = (tmp_path / name).read_text()
        assert "https://example.org/o/n/blob/v1.2.3/docs/operations.md" in text, name
        assert page.PLACEHOLDER not in text, name


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


def test_images_were_built_with_a_docker_that_had_no_daemon(tmp_path: Path) -> None:
    """Beside a podman that ran: `make deliver` said that the images could be built, and failed."""
    for tool in ("docker", "podman"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{tool} $1"\n[ {tool} = podman ]\n')
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/build-images"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TAG": "1", "ENGINE": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["podman build", "millrace-api:1", "podman build", "millrace-worker:1"]
