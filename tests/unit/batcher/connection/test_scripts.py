"""The source of a script: the definitions of common.lua that it uses, and its own file."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch

import pytest

import batcher.core
import batcher.jobs
from batcher.connection import scripts

SCRIPTS = [
    (path.stem, package.__name__)
    for package in (batcher.core, batcher.jobs)
    for path in sorted((Path(package.__file__ or "").parent / "lua").glob("*.lua"))
    if path.stem != "common"
]
COMMON = """-- Shared by all scripts.
local P = KEYS[1]
local FIRST, SECOND = P .. ':1', P .. ':2'
-- Uses third.
local function third(key)
  return redis.call('GET', key .. P)
end

local function fourth() return third(FIRST) end
local function fifth() return 5 end
"""


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("return P\n", ["P"]),
        ("return SECOND\n", ["P", "FIRST, SECOND"]),
        ("-- Not fifth().\nreturn fourth()\n", ["P", "FIRST, SECOND", "function third", "function fourth"]),
        ("return 1\n", []),
    ],
)
def test_a_script_has_the_definitions_that_it_uses_and_those_that_they_use(own: str, kept: list[str]) -> None:
    with patch.object(scripts, "lua_source", lambda name, package: {"common": COMMON, "own": own}[name]):
        source = scripts.script_source.__wrapped__("own")
    definitions = source.removesuffix(own)
    assert re.findall(r"^local (function \w+|[\w, ]+?)(?: =|\()", definitions, re.MULTILINE) == kept
    assert source.endswith(own)


@pytest.mark.parametrize(("name", "package"), SCRIPTS)
def test_every_script_is_smaller_than_with_all_definitions(name: str, package: str) -> None:
    common, own = scripts.lua_source("common", package), scripts.lua_source(name, package)
    source = scripts.script_source(name, package)
    assert source.endswith(own)
    assert len(source) < len(common) + len(own)
    # Each definition stands where it stood, since one can only use those before it.
    lines = iter(common.splitlines())
    assert all(line in lines for line in source.removesuffix(own).splitlines())
