"""locks/: what images and CI install, by hash, in step with pyproject.toml and constraints.txt."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# The extras of pyproject.toml in each file, and the files that it includes by `-r`.
CHAIN = {
    "api": (),
    "worker": ("worker",),
    "build": ("worker", "models"),
    "otel": ("otel",),
    "tables": ("tables",),
    "dev": None,
}
INCLUDED = {
    "api": (),
    "worker": ("api",),
    "build": ("worker",),
    "otel": (),
    "tables": (),
    "dev": ("build", "otel", "tables"),
}
AGAIN = "run scripts/lock and commit what it writes"
# Torch's files differ from index to index, and so does what they bring along. The last one reports to others.
UNLOCKED = re.compile(r"torch|triton|(nvidia|cuda)-.+|openvino-telemetry")


@dataclass(frozen=True, slots=True)
class Pin:
    version: str
    marker: str
    hashes: tuple[str, ...]


@cache
def pins(name: str) -> dict[str, Pin]:
    """The distributions of one file, without those of the files before it."""
    text = (ROOT / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if not line or line.startswith(("#", "-r ")):
            continue
        words, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(words)
        (exactly,) = requirement.specifier
        assert exactly.operator == "==", line
        found[canonicalize_name(requirement.name)] = Pin(
            exactly.version, str(requirement.marker or ""), tuple(hashes)
        )
    return found


def chain(name: str) -> dict[str, Pin]:
    """The distributions that are installed with a file."""
    found = dict(pins(name)) | (pins("api") if name in ("otel", "tables") else {})
    for included in INCLUDED[name]:
        found |= chain(included)
    return found


@cache
def project() -> dict[str, Any]:
    parsed: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return parsed


def declared(name: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for in a file's extras; all extras in the last."""
    extras = project()["optional-dependencies"]
    wanted = extras if CHAIN[name] is None else CHAIN[name]
    lines = [*project()["dependencies"], *(line for extra in wanted or () for line in extras[extra])]
    for requirement in map(Requirement, lines):
        if requirement.name != project()["name"] and not UNLOCKED.fullmatch(requirement.name):
            yield requirement


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("name", CHAIN)
def test_finding_26_every_declared_dependency_is_locked_within_its_bounds(name: str) -> None:
    locked = chain(name)
    for requirement in declared(name):
        pin = locked.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in locks/{name}.txt: {AGAIN}"
        assert requirement.specifier.contains(pin.version), f"{requirement}: {AGAIN}"


@pytest.mark.parametrize("name", [*CHAIN, "setuptools", "audit"])
def test_finding_26_every_locked_file_has_a_hash(name: str) -> None:
    assert pins(name)
    for dist, pin in pins(name).items():
        assert pin.hashes, dist
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in pin.hashes), dist
    assert "://" not in (ROOT / "locks" / f"{name}.txt").read_text(), (
        "an index is not the project's to choose"
    )


def test_finding_26_locks_and_constraints_name_the_same_versions() -> None:
    locked, exact = chain("dev") | pins("setuptools"), constraints()
    for dist, pin in locked.items():
        # What only other platforms or Pythons need is in no list of what is installed here.
        assert exact.get(dist, pin.version if pin.marker else "no version") == pin.version, f"{dist}: {AGAIN}"
    assert {dist for dist in exact if not UNLOCKED.fullmatch(dist)} <= locked.keys(), AGAIN


def test_each_distribution_stands_in_one_file() -> None:
    names = [dist for name in CHAIN for dist in pins(name)]
    assert len(names) == len(set(names))
    assert not [dist for dist in names if UNLOCKED.fullmatch(dist)]
    for name, included in INCLUDED.items():
        text = (ROOT / "locks" / f"{name}.txt").read_text()
        assert tuple(re.findall(r"^-r (\w+)\.txt$", text, re.MULTILINE)) == included


@pytest.mark.parametrize("name", CHAIN)
def test_a_lock_is_complete(name: str) -> None:
    """Pip installs them without their dependencies: these, of what is installed here, are among them."""
    locked = chain(name)
    looked_at = 0
    for dist, pin in locked.items():
        try:
            installed = metadata.distribution(dist)
        except metadata.PackageNotFoundError:
            continue
        if installed.version != pin.version:
            continue
        looked_at += 1
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in locked or UNLOCKED.fullmatch(needed), f"{dist} needs {needed}: {AGAIN}"
    assert looked_at > 10


def test_what_torch_needs_was_left_out_of_new_locks() -> None:
    """Its index would have brought it into the build of the image, without hashes."""
    assert "--extra worker --extra build " in (ROOT / "scripts/lock").read_text()
    try:
        needed = map(Requirement, metadata.requires("torch") or ())
    except metadata.PackageNotFoundError:
        pytest.skip("torch is not installed")
    names = {
        canonicalize_name(one.name)
        for one in needed
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }
    assert [name for name in names - chain("build").keys() if not UNLOCKED.fullmatch(name)] == []


def test_the_tools_of_an_image_build_are_locked() -> None:
    build = [
        Requirement(line)
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    ]
    for requirement in build:
        assert requirement.specifier.contains(pins("setuptools")[canonicalize_name(requirement.name)].version)


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "redis", "rq", "huggingface-hub", "transformers"])
def test_finding_26_what_is_leant_on_has_an_upper_bound(name: str) -> None:
    """Classes of theirs are subclassed, private names used, or majors change what is called."""
    (bounds,) = {requirement.specifier for requirement in declared("dev") if requirement.name == name}
    assert [bound for bound in bounds if bound.operator == "<"], f"{name}{bounds}"


TELEMETRY = "openvino 2026.4.1 requires openvino-telemetry, which is not installed."


@pytest.mark.parametrize(
    ("status", "said", "accepted"),
    [
        (0, "No broken requirements found.", True),
        (1, TELEMETRY, True),
        (1, f"{TELEMETRY}\nrq 2.12.0 requires redis, which is not installed.", False),
        (1, "nncf 3.0.0 has requirement openvino-telemetry>=2023.2.0, but you have 1.0.", False),
        (1, "", False),
    ],
)
def test_an_installation_may_lack_what_reports_to_others_and_nothing_else(
    tmp_path: Path, status: int, said: str, accepted: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho -n '{said}'\nexit {status}\n")
    python.chmod(0o755)
    done = subprocess.run([ROOT / "locks" / "check", python], capture_output=True, text=True)
    assert (done.returncode == 0) is accepted
    assert bool(done.stderr) is not accepted


def test_what_reports_to_others_is_in_no_lock() -> None:
    assert "openvino-telemetry" not in chain("dev") | chain("otel")
