"""The number of lines of code, which `make check` holds (scripts/style)."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def style() -> ModuleType:
    loader = SourceFileLoader("style", str(ROOT / "scripts/style"))
    spec = spec_from_loader("style", loader)
    assert spec is not None
    loader.exec_module(made := module_from_spec(spec))
    return made


def test_blank_lines_comments_and_docstrings_are_no_code(style: ModuleType) -> None:
    text = '''"""A module,
of two lines."""

import os  # counts once

# A comment.
VALUE = """a text
that counts"""
"""The text below a setting counts: pydantic and others read it."""


def f(a: int,
      b: int) -> None:
    """None of the code."""

    class C:
        """Nor this."""
'''
    assert style.code_lines(text) == 7


@pytest.mark.parametrize(
    ("count", "allowed", "said"),
    [
        (100, {"lines": 100, "why": "a"}, ""),
        (101, {"lines": 100, "why": "a"}, "101 lines of code, 1 above scripts/lines.toml"),
        (99, {"lines": 100, "why": "a"}, "write lines = 99"),
        (120, {"lines": 120, "why": "a"}, "lines rises from 100 to 120: write into `why` what for"),
        (120, {"lines": 120, "why": "Retries need them."}, ""),
        (90, {"lines": 90, "why": "a"}, ""),
    ],
)
def test_the_number_of_lines_rises_with_a_reason_only(
    style: ModuleType, count: int, allowed: dict[str, Any], said: str
) -> None:
    findings = list(style.compare(count, allowed, {"lines": 100, "why": "a"}))
    assert [said in finding for finding in findings] == ([True] if said else [])


def test_the_first_number_needs_no_reason(style: ModuleType) -> None:
    assert list(style.compare(100, {"lines": 100, "why": "a"}, {})) == []
