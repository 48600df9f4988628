"""Rules of the code: import contracts, no pickles, tested Python versions, declared dependencies."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "batcher", "model_store", "millrace", "text_files", "packaging/model/default_model")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OURS = {*(Path(package).name for package in PACKAGES), "millrace_client", "tests", "benchmarks"}


def test_imports_flow_one_way() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def imports(module: Path) -> set[str]:
    """Full names of the modules that a file imports, at any level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(module: Path) -> None:
    assert not imports(module) & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_finding_46_a_key_gets_its_end_with_its_value(module: Path) -> None:
    """If the connection breaks between two commands outside a transaction, the key is kept forever."""
    source = module.read_text()
    alone = [one for one in re.findall(r"(\w+)\.p?expire\(", source) if one != "pipe"]
    assert not alone, "a separate command sets the end of a key: send it in a transaction, as `pipe`"
    for sent in re.findall(r"pipeline\(transaction=False\)(.*?)\.execute\(", source, re.DOTALL):
        writes = re.search(r"push|hset|zadd|sadd|incr", sent, re.IGNORECASE)
        assert not (writes and "expire" in sent.lower()), f"this needs a transaction: {sent}"


# What api/ may set on objects of other classes, and why. All others get what they need in their constructors.
SET_FROM_OUTSIDE = {
    "context": "what is known of a request, noted step by step",
    "call": "the same in the dialects",
    "call.context": "the same",
    "headers": "the name of the client, once its key has been checked",
    "problem": "an error on its way to the client: its text, its form in a dialect",
    "hub": "who is called after each sweep: models come and go while hubs run",
    "self.first.hub": "the same",
    "self.cycle": "an object of uvicorn",
    "self._running": "the same",
    "cycle": "the same",
}


def set_from_outside(tree: ast.AST) -> set[str]:
    """The objects whose attributes are set other than by themselves: `x` of `x.name = ...`."""
    own = {"self", "cls"}
    stored = {
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return (stored | {ast.unparse(one.args[0]) for one in calls if ast.unparse(one.func) == "setattr"}) - own


API_MODULES = [path for path in MODULES if path.is_relative_to(ROOT / "api")]


@pytest.mark.parametrize("module", API_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_part_is_completed_after_its_construction(module: Path) -> None:
    """create_app set nine attributes on objects that it had made, each of them before that half built."""
    found = set_from_outside(ast.parse(module.read_text()))
    assert found <= SET_FROM_OUTSIDE.keys(), "pass it to the constructor, or call a method"


def test_what_may_be_set_from_outside_is_set_somewhere() -> None:
    found = (set_from_outside(ast.parse(module.read_text())) for module in API_MODULES)
    assert set(chain.from_iterable(found)) == SET_FROM_OUTSIDE.keys()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("jobs.find_model = find", {"jobs"}),
        ("service.predict.reader.keys = []", {"service.predict.reader"}),
        ("self.hub.on_sweep, x = call, 1", {"self.hub"}),
        ("one.turns += 1", {"one"}),
        ("made().name: str = 'a'", {"made()"}),
        ("for parts.number in range(3): pass", {"parts"}),
        ("setattr(jobs, name, value)", {"jobs"}),
        ("self.a = self.b = 1; cls.c = 2; d = 3; e[f.g] = 4", set()),
        ("other = copy(self); other.route = route", {"other"}),
    ],
)
def test_each_form_of_setting_is_found(code: str, expected: set[str]) -> None:
    assert set_from_outside(ast.parse(code)) == expected


def test_every_supported_python_is_tested() -> None:
    """`make test` covers one version, `make pythons` the others, and the workflow all of them."""
    promised = SpecifierSet(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    versions = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised]
    low, high = re.findall(r"Python (3\.\d+) to (3\.\d+)", (ROOT / "README.md").read_text())[0]
    assert [versions[0], versions[-1]] == [low, high]
    others = re.findall(r"PYTHONS:-([\d. ]+)", (ROOT / "scripts/other-pythons").read_text())[0].split()
    assert [low, *others] == versions
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert f"python: {json.dumps(versions)}" in workflow


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def test_constraints_fit_what_is_declared() -> None:
    """Every requirement in pyproject.toml has an exact version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        canonicalize_name(pin.name): pin
        for line in lines
        if not line.startswith("#")
        for pin in [Requirement(line)]
    }
    for requirement in declared():
        (exactly,) = pins[canonicalize_name(requirement.name)].specifier
        assert exactly.operator == "=="
        assert requirement.specifier.contains(exactly.version), requirement


def undeclared(paths: Iterable[Path], declared: set[str]) -> set[str]:
    """The packages that these files import from distributions that are not declared."""
    allowed = declared | {"starlette", "pydantic-core"}  # part of the public API of fastapi and pydantic
    brought_by = packages_distributions()
    imported = {name.split(".")[0] for path in paths for name in imports(path)}
    foreign = imported - OURS - set(sys.stdlib_module_names)
    assert foreign, "no imports found"
    # A package that is not installed, such as torch on some Pythons, is taken to be named as its module.
    return {
        name
        for name in foreign
        if not {canonicalize_name(dist) for dist in brought_by.get(name, [name])} & allowed
    }


def test_what_is_imported_is_declared() -> None:
    """An import that only works through another package's dependency can break with any upgrade."""
    # They run in separate environments.
    elsewhere = {ROOT / "tests/compat" / name for name in ("kserve_client.py", "openai_programs.py")}
    paths = {*MODULES, *(ROOT / "tests").rglob("*.py")} - elsewhere
    assert undeclared(paths, {canonicalize_name(requirement.name) for requirement in declared()}) == set()


def test_types_are_checked_with_what_check_installs() -> None:
    """mypy follows no package that only `make install` brings: its verdict is the same without them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *extras["check"], *extras["otel"]]
    settings = project["tool"]["mypy"]
    skipped = {
        name.removesuffix(".*")
        for one in settings["overrides"]
        if one.get("follow_imports") == "skip" and one["ignore_missing_imports"]
        for name in one["module"]
    }
    assert "torch" in skipped
    elsewhere = {path for place in settings["exclude"] for path in (ROOT / place).rglob("*.py")}
    paths = {*MODULES, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "client").rglob("*.py")} - elsewhere
    followed = undeclared(paths, {canonicalize_name(Requirement(line).name) for line in lines}) - skipped
    assert followed == set(), "add it to the extra `check`, or to what mypy does not follow"
