"""docs/architecture.md names files, classes and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
LINKS = re.findall(r"\[`?([\w./]+)`?\]\(\.\./([\w./]+)\)(?: `(\w+)`)?", PAGE)


def test_the_page_follows_one_text_from_socket_to_answer() -> None:
    hops = [path for _, path, _ in LINKS]
    assert hops[0] == "api/server/protocol.py"
    assert {
        "batcher/core/lua/enqueue.lua",
        "batcher/core/lua/claim.lua",
        "batcher/core/lua/complete.lua",
    } <= set(hops)


@pytest.mark.parametrize(("shown", "path", "name"), LINKS)
def test_a_link_leads_to_a_file_and_its_name_is_defined_there(shown: str, path: str, name: str) -> None:
    assert shown == path
    source = (ROOT / path).read_text()
    if name:
        defined = {
            node.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in defined
