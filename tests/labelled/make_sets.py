"""Writes the made-up labelled sets: `python -m tests.labelled.make_sets DIRECTORY`.

Each set has a training file and a test file. Half of the test texts are made from sentences that training
never shows, so that a set asks for more than known words. `topics` also has overlapping words (half of its
texts mention another topic that is not the concern) and 10 % wrong labels in training, none in the test.
`topics.csv` here is its training file with seed 1.
"""

from __future__ import annotations

import csv
import random
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SETS = {"topics": (3000, 600), "questions": (1200, 400), "intents": (960, 480), "aspects": (1500, 500)}
WRONG = 0.1
Row = tuple[str, str]


class Maker:
    """Draws texts of one set."""

    def __init__(self, name: str, *, test: bool, seed: int) -> None:
        content = tomllib.loads((HERE / "sentences.toml").read_text("utf-8"))[name]
        self.rng = random.Random(f"{name}/{test}/{seed}")
        self.labels: dict[str, list[str]] = content["labels"]
        self.asides: dict[str, list[str]] = content.get("asides", {})
        self._words: dict[str, list[str]] = content["words"]
        self._test = test

    def text(self, template: str) -> str:
        return template.format_map({name: self.rng.choice(words) for name, words in self._words.items()})

    def sentence(self, label: str) -> str:
        """A sentence of the first two thirds of the label's; in half of the tests one of the others."""
        known = len(self.labels[label]) * 2 // 3
        unseen = self._test and self.rng.random() < 0.5
        return self.text(
            self.rng.choice(self.labels[label][known:] if unseen else self.labels[label][:known])
        )

    def edge(self, name: str) -> str:
        return self.rng.choice(self._words[name])


def rows(name: str, count: int, *, test: bool, seed: int = 1) -> Iterator[Row]:
    """Yields texts and labels; several labels are joined by a semicolon."""
    maker = Maker(name, test=test, seed=seed)
    make = {"topics": _topic, "aspects": _aspects}.get(name, _plain)
    for _ in range(count):
        yield make(maker, test)


def _plain(maker: Maker, test: bool) -> Row:
    label = maker.rng.choice(list(maker.labels))
    return _typed(maker.sentence(label), maker.rng), label


def _topic(maker: Maker, test: bool) -> Row:
    label = maker.rng.choice(list(maker.labels))
    parts = [maker.sentence(label)]
    if maker.rng.random() < 0.5:
        other = maker.rng.choice([name for name in maker.labels if name != label])
        aside = maker.text(maker.rng.choice(maker.asides[other]))
        parts = [f"{parts[0]}, {aside}"] if maker.rng.random() < 0.5 else [f"{aside}, but {parts[0]}"]
    middle = [_typed(part, maker.rng) for part in parts]
    text = " ".join(filter(None, (maker.edge("start"), *middle, maker.edge("end"))))
    if not test and maker.rng.random() < WRONG:
        label = maker.rng.choice([name for name in maker.labels if name != label])
    return text, label


def _aspects(maker: Maker, test: bool) -> Row:
    chosen = maker.rng.sample(list(maker.labels), maker.rng.choice((1, 1, 2, 2, 3)))
    return ". ".join(_typed(maker.sentence(label), maker.rng) for label in chosen), ";".join(sorted(chosen))


def _typed(text: str, rng: random.Random) -> str:
    """As people type: sometimes a capital, a mark at the end, or two letters swapped."""
    if rng.random() < 0.15:
        at = rng.randrange(1, len(text) - 2)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    return text + rng.choice(("", "", ".", "!"))


def write(path: Path, made: Iterator[Row]) -> None:
    """Write a CSV with the columns text and label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("text", "label"))
        table.writerows(made)


def main(directory: Path) -> None:
    """Write every set into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (train, test) in SETS.items():
        write(directory / f"{name}.csv", rows(name, train, test=False))
        write(directory / f"{name}_test.csv", rows(name, test, test=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
