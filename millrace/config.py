"""`millrace config`: shows the effective value of every setting and its source; secrets are hidden."""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import asdict, dataclass
from itertools import groupby

from pydantic import SecretStr

from batcher.settings import QueueSettings
from millrace.settings_loader import SECTIONS, load_settings, own_fields, variables

_HIDDEN = "********"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: the process that reads it, the variable that sets it, its value, and the variable used."""

    section: str
    variable: str
    value: str
    source: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints all settings. Raises CommandError if one of them is invalid."""
    rows = effective()
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    width = max(len(row.variable) for row in rows)
    for section, of_section in groupby(rows, key=lambda row: row.section):
        print(f"{section}:")
        for row in of_section:
            origin = f"   (from {row.source})" if row.source else ""
            print(f"  {row.variable:<{width}}  {row.value}{origin}")
    return 0


def effective() -> list[Row]:
    """Every setting of every process, in the order of declaration."""
    present = {variable.upper(): variable for variable in os.environ}
    rows = []
    for section, kind in SECTIONS.items():
        settings = load_settings(kind)
        for name, field in own_fields(kind).items():
            choices = variables(name, field)
            source = next((present[choice] for choice in choices if choice in present), "")
            rows.append(Row(section, choices[0], _shown(settings, name), source))
    return rows


def _shown(settings: QueueSettings, name: str) -> str:
    value = getattr(settings, name)
    if value is None:
        return ""
    if not isinstance(value, SecretStr):
        return str(value).lower() if isinstance(value, bool) else str(value)
    secret = value.get_secret_value()
    if name.endswith("_url"):
        return re.sub(r"//[^/]*@", f"//{_HIDDEN}@", secret.partition("?")[0])
    return _HIDDEN if secret else ""
