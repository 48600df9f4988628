"""The client imports httpx only, and nothing of this repository."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "client/millrace_client").glob("*.py"))


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
