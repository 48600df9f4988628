"""Reads the files of a run, divides them into training, tuning and test rows, and surveys them.

Rows of one text stay together. Standard library only.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from model_store.errors import BadTraining
from model_store.training.recipes import Name, choose
from model_store.training.survey import Survey, normal, spelt, survey, without_duplicates
from model_store.training.table import MAX_ROWS, Columns, LabelledRow, read_table

TEST_SHARE, TUNE_SHARE = 0.2, 0.1
Parts = tuple[list[LabelledRow], list[LabelledRow]]
# Texts that are tokenised together: an encoding takes many times the memory of its ids.
SLICE = 256


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a run and how to read them. Without a `test` file, a share of the rows is held out."""

    paths: tuple[Path, ...]
    columns: Columns = field(default_factory=Columns)
    test: Path | None = None
    test_share: float = TEST_SHARE
    most_rows: int = MAX_ROWS
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What to train: on which files, into which directory, and how. `recipe` None chooses by the data."""

    source: Source
    out: Path
    base: str = "default"
    recipe: Name | None = None
    replace: bool = False
    threads: int = 0
    checkpoint_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Data:
    """Rows to train on, rows for the early stop, temperature and thresholds (`tune`), and a test.

    `tune` is empty for the recipe `linear`.
    """

    train: list[LabelledRow]
    tune: list[LabelledRow]
    test: list[LabelledRow]
    labels: list[str]
    recipe: Name
    survey: Survey

    def digest(self) -> str:
        """Identifies the rows and their order."""
        parts = ([[row.text, row.labels] for row in rows] for rows in (self.train, self.tune))
        return sha256(repr([self.labels, *parts]).encode()).hexdigest()


def read_data(source: Source, tokenizer: Any, max_tokens: int, recipe: Name | None) -> Data:
    """Read and divide the rows; `recipe` None chooses by their number. Raises BadTable and BadTraining."""
    table = read_table(*source.paths, columns=source.columns, most=source.most_rows, seed=source.seed)
    rows = without_duplicates(table.rows)
    multi_label = bool(source.columns.separator)
    if source.test:
        of_test = read_table(
            source.test, columns=source.columns, most=source.most_rows, seed=source.seed
        ).rows
        rest, test = without_texts_of(rows, of_test), of_test
        in_both = len(rows) - len(rest)
    else:
        (rest, test), in_both = hold_out(rows, source.test_share, source.seed), 0
    over_long = sum(len(ids) > max_tokens for ids in encode(tokenizer, [row.text for row in table.rows]))
    found = survey(table, rest, multi_label=multi_label, in_both=in_both, over_long=over_long)
    if not test:
        raise BadTraining(f"{table.name} has too few texts to hold some out: add some or give --test.")
    labels = sorted(found.labels)
    unknown = {label for row in test for label in row.labels} - set(labels)
    if unknown:
        raise BadTraining(
            f"{source.test} has the label {spelt(min(unknown))}, which {table.name} does not have."
        )
    recipe = recipe or choose(len(rest), len(labels))
    # Cross-validation does for the linear head what these rows do for the others.
    train, tune = (rest, []) if recipe == "linear" else hold_out(rest, TUNE_SHARE, source.seed)
    if recipe != "linear" and not tune:
        raise BadTraining(f"{table.name} has too few texts for the recipe {recipe}: use --recipe linear.")
    return Data(train, tune, test, labels, recipe, found)


def hold_out(rows: Sequence[LabelledRow], share: float, seed: int) -> Parts:
    """Divide rows into those to train on and a stratified `share` of them to hold out.

    A label with two or more texts has at least one in each part. A row with several labels counts for the
    rarest of them. The same rows, share and seed always give the same parts.
    """
    texts: dict[str, list[LabelledRow]] = {}
    for row in rows:
        texts.setdefault(normal(row.text), []).append(row)
    counts = Counter(label for row in rows for label in row.labels)
    strata: dict[str, list[list[LabelledRow]]] = {}
    for same in texts.values():
        labels = {label for row in same for label in row.labels}
        rarest = min(labels, key=lambda label: (counts[label], label), default="")
        strata.setdefault(rarest, []).append(same)
    parts: Parts = ([], [])
    for label in sorted(strata):
        groups = strata[label]
        Random(f"{seed}/{label}").shuffle(groups)
        out = min(len(groups) - 1, max(1, round(len(groups) * share)))
        for number, same in enumerate(groups):
            parts[number < out].extend(same)
    return parts


def without_texts_of(rows: Sequence[LabelledRow], test: Sequence[LabelledRow]) -> list[LabelledRow]:
    """The rows whose texts do not stand in `test`."""
    known = {normal(row.text) for row in test}
    return [row for row in rows if normal(row.text) not in known]


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int | None = None) -> Iterator[Sequence[int]]:
    """Token ids of each text, with special tokens, at most `max_tokens` if there is a limit."""
    for start in range(0, len(texts), SLICE):
        some = list(texts[start : start + SLICE])
        found = tokenizer(some, truncation=max_tokens is not None, max_length=max_tokens)
        # An array takes four bytes a token; a list of large numbers takes 36.
        yield from (array("i", ids) for ids in found["input_ids"])
