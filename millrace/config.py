"""`millrace config`: shows the value, source, unit and meaning of every setting; secrets are hidden."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, pairwise

from pydantic import BeforeValidator, SecretStr, ValidationError

from batcher.settings import QueueSettings
from millrace.errors import CommandError
from millrace.settings_loader import SECTIONS, check_names, load_settings, own_fields, unit, variables

_HIDDEN = "********"
_INDENT = "      "


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `section` is the process that reads it, `source` the variable that has its value."""

    section: str
    variable: str
    value: str
    source: str
    unit: str
    meaning: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints all settings, then what is wrong with them. Exit status 2 if anything is."""
    rows, problems = effective()
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print(rows)
    for problem in problems:
        print(f"millrace config: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _print(rows: list[Row]) -> None:
    width = max(len(row.variable) for row in rows)
    columns = max(shutil.get_terminal_size().columns, width + len(_INDENT))
    for section, of_section in groupby(rows, key=lambda row: row.section):
        print(f"{section}:")
        for row in of_section:
            unit_of = f" {row.unit}" if row.unit and row.value else ""
            origin = f"   (from {row.source})" if row.source else ""
            print(f"  {row.variable:<{width}}  {row.value}{unit_of}{origin}")
            print(textwrap.fill(row.meaning, columns, initial_indent=_INDENT, subsequent_indent=_INDENT))


def effective() -> tuple[list[Row], list[str]]:
    """Every setting of every process, in the order of declaration, and every problem.

    If a section is invalid, its values are shown as they are written.
    """
    present = {variable.upper(): variable for variable in os.environ}
    rows, problems = [], dict.fromkeys(_problems_of(check_names))
    for section, kind in SECTIONS.items():
        try:
            settings = kind()
        except ValidationError:
            settings = None
            problems |= dict.fromkeys(_problems_of(partial(load_settings, kind)))
        texts = meanings(kind)
        for name, field in own_fields(kind).items():
            choices = variables(name, field)
            source = next((present[choice] for choice in choices if choice in present), "")
            written = os.environ[source] if source else field.get_default(call_default_factory=True)
            parsed = any(isinstance(step, BeforeValidator) for step in field.metadata)
            value = getattr(settings, name) if settings and not parsed else written
            if "Secret" in str(field.annotation) and isinstance(value, str):
                value = SecretStr(value)
            rows.append(
                Row(section, choices[0], _shown(name, value), source, unit(name), texts.get(name, ""))
            )
    return rows, list(problems)


def meanings(kind: type[QueueSettings]) -> dict[str, str]:
    """The text below each setting in the source of its class.

    pydantic could read them, which would make the start of every process 45 ms slower.
    """
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for setting, below in pairwise(declared.body):
        match setting, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _problems_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except CommandError as error:
        return [str(error)]
    return []


def _shown(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, SecretStr):
        return str(value).lower() if isinstance(value, bool) else str(value)
    secret = value.get_secret_value()
    if name.endswith("_url"):
        return re.sub(r"//[^/]*@", f"//{_HIDDEN}@", secret.partition("?")[0])
    return _HIDDEN if secret else ""
