"""`make families`: compares every architecture that transformers can classify with, and writes tables."""

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
from itertools import product
from pathlib import Path

from tests.families.checkpoints import families, write_family
from tests.families.compare import LONG_TEXTS, TEXTS, Comparison, Precision, compare
from tests.families.table import write_tables

# Beside families, a model that reads long texts.
_LONG, _READ = "modernbert-8192", 8192


def main() -> int:
    """Compare families, or a slice of them. Returns 1 if one answers otherwise or ends in another error."""
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("families", nargs="*", help="names of transformers (default: all)")
    parser.add_argument("--slice", default="1/1", help="the part of them to run, such as 2/4")
    parser.add_argument(
        "--results", type=Path, default=Path("bench-results/families.ndjson"), help="appended to"
    )
    parser.add_argument("--precision", nargs="+", default=["f32"], choices=("f32", "bf16", "int8"))
    parser.add_argument("--engine", default="auto", choices=("auto", "openvino", "torch"))
    parser.add_argument("--write", action="store_true", help="write the tables into docs/families.md")
    args = parser.parse_args()
    part, parts = map(int, args.slice.split("/"))
    names = (args.families or [*sorted(families()), _LONG])[part - 1 :: parts]
    args.results.parent.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    wrong = 0
    names = [] if args.write and not args.families else names
    for name, precision in product(names, args.precision):
        began = time.process_time()
        found = _compared(name, precision, args.engine)
        wrong += not found.right
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        state = "ok" if found.right else "WRONG"
        spent_s = time.process_time() - began
        print(f"{state:<6} {name:<22} {precision} {spent_s:6.1f} s  {_shown(found)}", flush=True)
    if args.write:
        write_tables(args.results)
    return int(wrong > 0)


def _compared(name: str, precision: Precision, engine: str) -> Comparison:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = _written(Path(scratch) / "model", name)
        except Exception as error:
            if os.environ.get("FAMILIES_DEBUG"):
                traceback.print_exc()
            return Comparison(name, refused=f"not made: {type(error).__name__}: {error}", labels=False)
        try:
            texts = LONG_TEXTS if name == _LONG else TEXTS
            return compare(path, Path(scratch) / "kept", name, precision, texts, engine=engine)
        except Exception as error:
            if os.environ.get("FAMILIES_DEBUG"):
                traceback.print_exc()
            how = f"TRACEBACK {type(error).__name__}: {error}"
            return Comparison(name, how=how, labels=False, precision=precision)


def _written(path: Path, name: str) -> Path:
    if name != _LONG:
        return write_family(path, name)
    sizes = {"max_position_embeddings": _READ, "num_attention_heads": 1}
    return write_family(path, "modernbert", max_positions=_READ, **sizes)


def _shown(found: Comparison) -> str:
    if found.refused:
        return f"refused: {found.refused}"
    figures = f"{found.alone:.1e} alone, {found.batch:.1e} batched, spread {found.spread:.2f}"
    figures += f", {found.apart:.1e} apart, {found.flipped} flipped, limit {found.limit:.2g}"
    return f"{found.how}, {found.served}: {figures} {found.fallback}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
