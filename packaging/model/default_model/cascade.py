"""Measures the embedded default before a larger model that learned from the same data.

    python -m default_model.cascade --data DATA --sets SETS --large LARGE --out OUT

DATA has SST-2 and SETS the other sets, as packaging/model/README.md describes them. Neither model was trained
on the texts that are measured here: `dev.tsv`, and the part `last` of each set. docs/several-models.md says
how to make LARGE.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from default_model.corpus import read_rows
from default_model.domains.sets import read_mixture
from millrace.__main__ import main as millrace
from model_store.convert import LABELS

MAX_TEXTS = 250  # texts of each set
LONGEST = 1000  # characters: longer ones are measured in windows, which is another question


def dev(data: Path) -> Iterator[tuple[str, str]]:
    """Texts and labels of SST-2's dev.tsv, the labels as the default names them."""
    for row in read_rows(data / "dev.tsv"):
        yield row.text, LABELS[int(row.positive)]


def last(sets: Path) -> Iterator[tuple[str, str]]:
    """The first `MAX_TEXTS` texts of the part `last` of each set, without neutral and long ones."""
    for one in read_mixture(sets).sets:
        rows = [row for row in one.last if row.positive != 0.5 and len(row.text) <= LONGEST]
        yield from ((row.text, LABELS[int(row.positive)]) for row in rows[:MAX_TEXTS])


def write(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m default_model.cascade", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of SST-2, with dev.tsv")
    parser.add_argument("--sets", type=Path, required=True, help="directory of the other sets: NAME.tsv")
    parser.add_argument("--large", required=True, help="the larger model: a directory")
    parser.add_argument("--out", type=Path, required=True, help="directory for the files of texts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for title, rows in (("SST-2 dev", dev(args.data)), ("Other kinds of text", last(args.sets))):
        print(f"\n{title}:", flush=True)
        path = write(args.out / f"{title.split()[0]}.csv", rows)
        millrace(["evaluate", str(path), "--cascade", args.large])


if __name__ == "__main__":
    main()
