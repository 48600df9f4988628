"""`millrace config`: shows the effective value of every setting and its source; secrets are hidden."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby

from pydantic import SecretStr, ValidationError

from millrace.errors import CommandError
from millrace.settings_loader import SECTIONS, check_names, load_settings, own_fields, unit, variables

_HIDDEN = "********"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: the process that reads it, its variable, its value, the variable used, and its unit."""

    section: str
    variable: str
    value: str
    source: str
    unit: str


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
    for section, of_section in groupby(rows, key=lambda row: row.section):
        print(f"{section}:")
        for row in of_section:
            unit_of = f" {row.unit}" if row.unit and row.value else ""
            origin = f"   (from {row.source})" if row.source else ""
            print(f"  {row.variable:<{width}}  {row.value}{unit_of}{origin}")


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
        for name, field in own_fields(kind).items():
            choices = variables(name, field)
            source = next((present[choice] for choice in choices if choice in present), "")
            written = os.environ[source] if source else field.get_default(call_default_factory=True)
            secret = "SecretStr" in str(field.annotation) and isinstance(written, str)
            value = getattr(settings, name) if settings else SecretStr(written) if secret else written
            rows.append(Row(section, choices[0], _shown(name, value), source, unit(name)))
    return rows, list(problems)


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
