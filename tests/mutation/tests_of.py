"""Runs the tests whose imports reach a file, nearest first: python -m tests.mutation.tests_of FILE

Of `make test-fast`, of the searches and of the default model: tests that start processes import nothing of
what these run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache

from tests.mutation.mutants import ROOT

FOLDERS = ("unit", "integration", "repo", "search", "simulation", "packaging")
PACKAGES = (
    *("api", "batcher", "millrace", "model_store", "text_files", "client"),
    "packaging/model/default_model",
)
ROOTS = (ROOT, ROOT / "client", ROOT / "packaging/model")


def distances(test: str) -> dict[str, int]:
    """The files of this repository that a file imports, itself or through others, and through how many."""
    found, front = {test: 0}, [test]
    while front:
        beyond = {file for one in front for file in imports(one)} - found.keys()
        found |= dict.fromkeys(beyond, found[front[0]] + 1)
        front = sorted(beyond)
    return found


@cache
def imports(file: str) -> frozenset[str]:
    """The files that a file imports, also within functions or as `Lazy`, and those of their packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Lazy":
            names |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return frozenset(file for name in names for file in _files(name))


def _files(module: str) -> Iterator[str]:
    parts = module.split(".")
    for root in ROOTS:
        for most in range(1, len(parts) + 1):
            path = root.joinpath(*parts[:most])
            for file in (path / "__init__.py", path.with_suffix(".py")):
                if file.is_file():
                    yield str(file.relative_to(ROOT))


def tests_of(file: str) -> list[str]:
    """The test modules that reach a file, nearest first."""
    tests = sorted(
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
    )
    reached = {test: distances(test).get(file) for test in tests}
    near = [(distance, test) for test, distance in reached.items() if distance is not None]
    return [test for _, test in sorted(near)]


def main(words: Sequence[str]) -> int:
    """Returns pytest's exit status. Further words are options of pytest."""
    file, *options = words or [""]
    if not file.startswith(PACKAGES) or not file.endswith(".py") or not (ROOT / file).is_file():
        print("FILE must be a Python file of the product, e.g. make tests-of FILE=batcher/hub/hub.py")
        return 2
    if not (tests := tests_of(file)):
        print(f"No test imports {file}, itself or through others.")
        return 1
    print(f"{len(tests)} modules of tests reach {file}, nearest first", flush=True)
    chosen = [
        "-n",
        "2",
        "--dist",
        "load",
        "-m",
        "not redis and not e2e",
        "-p",
        "no:randomly",
        *tests,
        *options,
    ]
    return subprocess.run([sys.executable, "-m", "pytest", *chosen], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
