"""Edits the code in small ways and shows which edits no test notices.

    python -m tests.mutation [--sample 300] [--seed 1] [--fields queue jobs] [--only TEXT] [--records DIR]

First it records which tests run which lines and scripts. Each mutant is one edit of a copy of the
repository, where the tests that run the edited line or script run, short and specific ones first, until
one fails.
Mutants are drawn by the seed, as many from each of the `--fields`. `--only` keeps those whose line, as it is
printed, contains TEXT. Those that `lives.toml` explains are not run. The status is 1
if any other lives.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from tests.mutation.covering import Covering
from tests.mutation.mutants import FIELDS, Mutant, sample
from tests.mutation.running import copy_of_repository, first_failure, record, unrecorded

LIVES = Path(__file__).with_name("lives.toml")


def label(mutant: Mutant) -> str:
    """As it is printed: place, line before and line after."""
    number, before, after = mutant.place()
    return f"{mutant.file}:{number} | {before} | {after}"


def explained(mutant: Mutant) -> str:
    """Why no test needs to notice a mutant; "" if that is not known."""
    _, before, after = mutant.place()
    for one in tomllib.loads(LIVES.read_text())["lives"]:
        if (one["file"], one["line"], one["becomes"]) == (mutant.file, before, after):
            return str(one["why"])
    return ""


def run(mutants: list[Mutant], folder: Path, first: int, covering: Covering) -> Counter[str]:
    """Prints what becomes of each mutant, and counts."""
    outcomes: Counter[str] = Counter()
    for number, mutant in enumerate(mutants, first + 1):
        began, path = time.monotonic(), folder / mutant.file
        tests = [*covering.tests_of(mutant), *unrecorded(mutant)]
        why = explained(mutant)
        original = path.read_text()
        path.write_text(mutant.applied(original))
        try:
            failure = "" if why else first_failure(folder, tests, covering.seconds)
        finally:
            path.write_text(original)
        outcome = "found" if failure else "explained" if why else "lives"
        outcomes[outcome] += 1
        spent = time.monotonic() - began
        result = failure or why or f"{len(tests)} tests run it"
        print(f"{number:4} {outcome:9} {spent:5.1f} s | {label(mutant)} | {result}", flush=True)
    return outcomes


def main() -> int:
    """Runs a sample. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=FIELDS)
    parser.add_argument("--from", type=int, default=0, dest="first", help="skip as many of the sample")
    parser.add_argument("--to", type=int, help="end after this one of the sample")
    parser.add_argument("--only", default="", help="only mutants whose line contains this")
    parser.add_argument(
        "--records", type=Path, help="keep what the tests run here, and use it in the next run"
    )
    args = parser.parse_args()
    drawn = sample(args.sample, args.seed, args.fields)[args.first : args.to]
    mutants = [one for one in drawn if args.only in label(one)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = copy_of_repository(Path(name))
        print(f"{len(mutants)} mutants; recording what the tests run", flush=True)
        outcomes = run(mutants, folder, args.first, record(folder, args.records or folder / "records"))
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return 1 if outcomes["lives"] else 0


if __name__ == "__main__":
    sys.exit(main())
