"""`make families`: compares every architecture that transformers can classify with, and writes a table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path

from tests.families.checkpoints import FAMILIES, write_family
from tests.families.compare import Comparison, compare
from tests.families.table import write_table


def main() -> int:
    """Compare families, or a slice of them. Returns 1 if one answers otherwise or ends in another error."""
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("families", nargs="*", help="names of transformers (default: all)")
    parser.add_argument("--slice", default="1/1", help="the part of them to run, such as 2/4")
    parser.add_argument(
        "--results", type=Path, default=Path("bench-results/families.ndjson"), help="appended to"
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    args = parser.parse_args()
    part, parts = map(int, args.slice.split("/"))
    names = (args.families or sorted(FAMILIES))[part - 1 :: parts]
    args.results.parent.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    wrong = 0
    for name in () if args.write and not args.families else names:
        began = time.process_time()
        found = _compared(name)
        wrong += not found.right
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        state = "ok" if found.right else "WRONG"
        print(f"{state:<6} {name:<22} {time.process_time() - began:6.1f} s  {_shown(found)}", flush=True)
    if args.write:
        write_table(args.results)
    return int(wrong > 0)


def _compared(name: str) -> Comparison:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = write_family(Path(scratch) / "model", name)
        except Exception as error:
            if os.environ.get("FAMILIES_DEBUG"):
                traceback.print_exc()
            return Comparison(name, refused=f"not made: {type(error).__name__}: {error}", labels=False)
        try:
            return compare(path, Path(scratch) / "kept", name)
        except Exception as error:
            if os.environ.get("FAMILIES_DEBUG"):
                traceback.print_exc()
            return Comparison(name, how=f"TRACEBACK {type(error).__name__}: {error}", labels=False)


def _shown(found: Comparison) -> str:
    if found.refused:
        return f"refused: {found.refused}"
    figures = f"{found.alone:.1e} alone, {found.batch:.1e} batched, spread {found.spread:.2f}"
    return f"{found.how}: {figures} {found.fallback}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
