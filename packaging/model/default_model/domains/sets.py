"""Reads labelled sets of many kinds of text, holds rows of each out, and draws balanced epochs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

from default_model.corpus import Row

MIXTURE = Path(__file__).parent / "mixture.toml"
MIN_WORDS = 40  # of a window
RECIPES = ("default", "large", "large_second")


@dataclass(frozen=True, slots=True)
class Share:
    """A set's part of the mixture; mixture.toml explains the fields."""

    rows: int
    choose: int
    last: int
    smoothing: float = 0.0
    words: int = 0


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """One set: `rows` to train on, `choose` to compare recipes with, `last` for one last look."""

    name: str
    share: Share
    rows: tuple[Row, ...] = field(repr=False)
    choose: tuple[Row, ...] = field(repr=False)
    last: tuple[Row, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The sets that were found, and what a recipe makes of them, of SST-2 and of written files.

    The embeddings and the first `frozen` layers keep their weights. `balance` is 1 if a set has as many rows
    of each class, 0 if it has them as they come, and 0.5 for the square root between. `teacher_share` of a
    target is what a teacher says, where it has answered.
    """

    sets: tuple[LabelledSet, ...]
    made: dict[str, int]
    learning_rate: float
    frozen: int = 0
    balance: float = 1.0
    teacher_share: float = 0.5


def read_mixture(folder: Path, path: Path = MIXTURE, *, recipe: str = "default") -> Mixture:
    """Read `<name>.tsv` of every set that `folder` has, split it, and draw from it by a `recipe` of the file.

    The digest of a text decides which part it belongs to, so the parts depend neither on order nor on a seed.
    Raises ValueError if there is no set, or with file and line on a bad row.
    """
    book = tomllib.loads(path.read_text("utf-8"))
    found = {name: folder / f"{name}.tsv" for name in book["sets"] if (folder / f"{name}.tsv").is_file()}
    if not found:
        raise ValueError(f"{folder} has none of the sets: {', '.join(book['sets'])}")
    part = book["recipes"][recipe]
    shares = {name: Share(rows=part["rows"][name], **book["sets"][name]) for name in found}
    sets = tuple(_split(name, shares[name], _read(file)) for name, file in found.items())
    options = {name: value for name, value in part.items() if name != "rows"}
    return Mixture(sets, **options)


def draw(one: LabelledSet, rng: Random, balance: float = 1.0) -> list[Row]:
    """One epoch's rows of a set: classes balanced, long texts as windows, targets smoothed."""
    classes = sorted({row.positive for row in one.rows})
    found = [[row for row in one.rows if row.positive == positive] for positive in classes]
    weights = [len(rows) ** (1 - balance) for rows in found]
    drawn = [
        row
        for rows, weight in zip(found, weights, strict=True)
        for row in _sample(rows, round(one.share.rows * weight / sum(weights)), rng)
    ]
    return [prepared(row, one.share, rng) for row in drawn]


def window(text: str, longest: int, rng: Random) -> str:
    """A run of MIN_WORDS to `longest` words: from the start, the end, or anywhere, equally often."""
    words = text.split(" ")
    length = rng.randint(MIN_WORDS, longest)
    spare = len(words) - length
    if spare <= 0:
        return text
    first = rng.choice((0, spare, rng.randint(0, spare)))
    return " ".join(words[first : first + length])


def prepared(row: Row, share: Share, rng: Random) -> Row:
    """A row to train on: one window of a long text, and a smoothed target."""
    text = window(row.text, share.words, rng) if share.words else row.text
    return Row(text, row.positive * (1 - share.smoothing) + share.smoothing / 2)


def _sample(rows: Sequence[Row], count: int, rng: Random) -> list[Row]:
    """`count` rows; none is drawn again before all have been."""
    whole, rest = divmod(count, len(rows))
    return [*(row for _ in range(whole) for row in rows), *rng.sample(rows, rest)]


def _split(name: str, share: Share, rows: Sequence[Row]) -> LabelledSet:
    ordered = sorted(rows, key=lambda row: sha256(row.text.encode()).digest())
    first, second = share.choose, share.choose + share.last
    parts = ordered[second:], ordered[:first], ordered[first:second]
    return LabelledSet(name, share, *map(tuple, parts))


def _read(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines()[1:], start=2):
        text, _, label = line.rpartition("\t")
        if label not in ("0", "0.5", "1"):
            raise ValueError(f"{path}:{number}: the label must be 0, 0.5 or 1, got {label!r}")
        rows.append(Row(text, float(label)))
    return rows
