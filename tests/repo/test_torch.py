"""Torch, and with it CUDA, is installed on request only."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
WITH_TORCH = {"build", "train"}


def required(lines: list[str]) -> set[str]:
    """The distributions that are installed with these requirements, as far as they are installed here."""
    found: set[str] = set()
    todo = [Requirement(line) for line in lines]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name == PROJECT["name"]:
            todo += [
                Requirement(line) for inner in one.extras for line in PROJECT["optional-dependencies"][inner]
            ]
            continue
        if name in found:
            continue
        found.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        inner = map(Requirement, needed)
        todo += [each for each in inner if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_only_two_extras_require_torch(extra: str) -> None:
    needed = required([f"{PROJECT['name']}[{extra}]"])
    assert needed, extra
    assert ("torch" in needed) == (extra in WITH_TORCH)


def test_the_project_itself_requires_no_torch() -> None:
    assert required(PROJECT["dependencies"]).isdisjoint({"torch", "transformers", "openvino", "numpy"})
