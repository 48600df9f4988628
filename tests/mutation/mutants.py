"""Small edits of the code, one at a time, in a fixed order: what the tests must notice."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lupa.lua51 import LuaRuntime

ROOT = Path(__file__).resolve().parents[2]
LUA = ("batcher/core/lua", "batcher/jobs/lua")
SCRIPTS = "scripts"
# A sample has as many mutants of each field as of the others. Folders are without those in them.
PYTHON = {
    "queue": ("batcher/core", "batcher/hub", "batcher/worker", "batcher/lookup", "batcher/connection"),
    "jobs": ("batcher/jobs", "api/jobs", "api/batches"),
    "admin": ("batcher/admin", "api/admin", "batcher/publishing"),
    "api": ("api", "api/asgi", "api/compat", "api/predict", "api/server", "api/stats"),
    "models": ("api/models", "model_store", "model_store/engines"),
    "client": ("client/millrace_client",),
}
FIELDS = (SCRIPTS, *PYTHON)
# Larger numbers are chosen sizes and durations: tests do not pin them.
LARGEST = 9
# Declarations, and figures for people.
LEFT_OUT = {"metrics.py", "observability.py", "traces.py", "host.py"}


class Mutant(NamedTuple):
    """`old` at `start` (in characters) of a file becomes `new`."""

    file: str
    start: int
    old: str
    new: str
    rule: str

    def applied(self, text: str) -> str:
        assert text[self.start :].startswith(self.old), f"{self.file} has changed"
        return text[: self.start] + self.new + text[self.start + len(self.old) :]

    def lines(self, text: str) -> tuple[int, str, str]:
        """The number of the line, and that line before and after the edit."""
        number = text.count("\n", 0, self.start)
        before, after = (content.split("\n")[number].strip() for content in (text, self.applied(text)))
        return number + 1, before, after

    def place(self) -> tuple[int, str, str]:
        """`lines` of the file in this repository."""
        return self.lines((ROOT / self.file).read_text())


SWAPS = {
    "==": "~=",
    "~=": "==",
    "<=": "<",
    "<": "<=",
    ">=": ">",
    ">": ">=",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "and": "or",
    "or": "and",
    "not": "",
    "true": "false",
    "false": "true",
    "math.min": "math.max",
    "math.max": "math.min",
    "math.ceil": "math.floor",
    "math.floor": "math.ceil",
    "'RPUSH'": "'LPUSH'",
    "'LPUSH'": "'RPUSH'",
    "'ZPOPMAX'": "'ZPOPMIN'",
}
TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|math\.\w+|[A-Za-z_][\w.]*|\d+|==|~=|<=|>=|\.\.|[-+*/<>]")
STATEMENT = re.compile(r"^ *+(?!local |return|--)[^\n]+$", re.MULTILINE)
CONDITION = re.compile(r"^ *(if|elseif) (.*?) then\b", re.MULTILINE)


COMPILES = LuaRuntime().eval("function(source) return loadstring(source) ~= nil end")


def lua_mutants(file: str, text: str) -> Iterator[Mutant]:
    """Operators, constants, dropped statements, and branches that change places; only what still compiles."""
    return (one for one in _lua_edits(file, text) if COMPILES(one.applied(text)))


def _lua_edits(file: str, text: str) -> Iterator[Mutant]:
    for found in TOKEN.finditer(text):
        token = found[0]
        if token in SWAPS:
            yield Mutant(file, found.start(), token, SWAPS[token], "operator")
        elif token[0].isdigit() and int(token) <= LARGEST:
            yield Mutant(file, found.start(), token, str(int(token) + 1), "constant")
    for found in STATEMENT.finditer(text):
        yield Mutant(file, found.start(), found[0], "do end", "statement")
    for found in CONDITION.finditer(text):
        yield Mutant(file, found.start(2), found[2], f"not ({found[2]})", "branch")


COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}


class _Python:
    """The mutants of one module."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self._lines = [0]
        for line in text.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)

    def _at(self, line: int, column: int) -> int:
        """Columns of `ast` count bytes."""
        start = self._lines[line - 1]
        return start + len(self.text[start:].encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _replace(self, node: ast.expr | ast.stmt, new: str, rule: str) -> Mutant:
        start, end = self._span(node)
        return Mutant(self.file, start, self.text[start:end], new, rule)

    def _between(self, left: ast.expr, right: ast.expr, new: str) -> Mutant:
        """Another operator between two operands, whose brackets stay."""
        start, end = self._span(left)[1], self._span(right)[0]
        old = self.text[start:end]
        operator = old.strip("() \n")
        return Mutant(self.file, start, old, old.replace(operator, new, 1), "operator")

    def mutants(self) -> Iterator[Mutant]:
        for node in _walk(ast.parse(self.text)):
            if isinstance(node, ast.Compare) and len(node.ops) == 1:
                yield self._between(node.left, node.comparators[0], COMPARISONS[type(node.ops[0])])
            elif isinstance(node, ast.BoolOp):
                new = "or" if isinstance(node.op, ast.And) else "and"
                yield self._between(node.values[0], node.values[1], new)
            elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                yield self._between(node.left, node.right, OPERATORS[type(node.op)])
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
                yield self._replace(node, ast.unparse(node.operand), "operator")
            elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
                yield self._replace(node, str(not node.value), "constant")
            elif isinstance(node, ast.Constant) and type(node.value) is int and node.value <= LARGEST:
                yield self._replace(node, str(node.value + 1), "constant")
            elif isinstance(node, ast.AugAssign) or _is_call(node):
                yield self._replace(node, "pass", "statement")  # type: ignore[arg-type]
            elif isinstance(node, ast.If | ast.IfExp):
                yield self._replace(node.test, f"not ({ast.unparse(node.test)})", "branch")


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs: without annotations, docstrings and log lines.

    Also without the `strict` of zip, which guards against faults of the code itself.
    """
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_log_line(child):
                yield from _walk(child)


def _is_call(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value.value if isinstance(value, ast.Await) else value, ast.Call)


def _is_log_line(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "_log.", "logger."))


def python_mutants(file: str, text: str) -> Iterator[Mutant]:
    """As `lua_mutants`. Edits of log lines and of types are left out."""
    return _Python(file, text).mutants()


def every_mutant(
    folders: tuple[str, ...], kind: str, of: Callable[[str, str], Iterator[Mutant]]
) -> list[Mutant]:
    """Of all files of a kind, in the order of their names."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).glob(kind)):
            if path.name not in LEFT_OUT:
                found += list(of(str(path.relative_to(ROOT)), path.read_text()))
    return found


@cache
def mutants_of(field: str) -> list[Mutant]:
    """All mutants of a field: of the scripts, which hold the state, or of a part of the Python."""
    if field == SCRIPTS:
        return every_mutant(LUA, "*.lua", lua_mutants)
    return every_mutant(PYTHON[field], "*.py", python_mutants)


def sample(count: int, seed: int, fields: Sequence[str] = FIELDS) -> list[Mutant]:
    """As many of each field, and what does not divide of the first ones."""
    draw = random.Random(seed)
    each, rest = divmod(count, len(fields))
    drawn = [
        one for at, field in enumerate(fields) for one in draw.sample(mutants_of(field), each + (at < rest))
    ]
    draw.shuffle(drawn)
    return drawn
