"""Draws the rows of an epoch from a mixture of sets, SST-2 and hand-written files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from default_model import augment, recipe, templates
from default_model.corpus import Row, Split
from default_model.domains import emoji, unreadable
from default_model.domains.sets import LabelledSet, Mixture, draw
from default_model.domains.siblings import NEUTRAL, siblings
from default_model.recipe import Recipe

SIBLINGS = 8  # rows of one family
SST2 = "sst2"
SENTENCES = "review_sentences"
_SHORT = 160  # characters
_NEGATION = re.compile(
    r"\b(no(t|ne|thing|body)?|never|without|hardly|cannot)\b|n't\b|\b(ca|wo|do|is|was)nt\b"
)
_SENTENCE_END = re.compile(r"(?<=[.!?]) +")


class Drawn(NamedTuple):
    """A row that people have labelled, and the set it is from; SST2 for the treebank.

    Those of SENTENCES are from reviews, and only their reviews are labelled.
    """

    name: str
    row: Row


def drawn_rows(split: Split, mixture: Mixture, seed: int) -> list[Drawn]:
    """The rows of an epoch that people have labelled, as they are in the sets. Depends on nothing else."""
    rng = Random(f"{seed}/drawn")
    rows = [Drawn(SST2, row) for row in _treebank(split, mixture.made, rng)]
    rows += [Drawn(one.name, row) for one in mixture.sets for row in draw(one, rng, mixture.balance)]
    rows += negations(mixture.sets, rng, count=mixture.made["negations"])
    return rows + review_sentences(mixture.sets, rng, count=mixture.made.get(SENTENCES, 0))


def taught(drawn: Sequence[Drawn], answers: Mapping[str, float], share: float) -> list[Drawn]:
    """The rows with `share` of each target from a teacher's P(positive), where `answers` has the text.

    Sentences of reviews have the whole target from it, or are left out.
    """
    rows = []
    for drawn_row in drawn:
        name, row = drawn_row
        if row.text in answers:
            part = 1.0 if name == SENTENCES else share
            target = (1 - part) * round(row.positive) + part * answers[row.text]
            rows.append(Drawn(name, Row(row.text, target)))
        elif name != SENTENCES:
            rows.append(drawn_row)
    return rows


def epoch_rows(
    split: Split, mixture: Mixture, settings: Recipe, rng: Random, answers: Mapping[str, float]
) -> Iterator[Row]:
    """The rows of one epoch, without siblings. `answers`: a teacher's P(positive) of some of the texts."""
    made = mixture.made
    drawn = taught(drawn_rows(split, mixture, settings.seed), answers, settings.teacher_share)
    treebank = [row for name, row in drawn if name == SST2]
    yield from (recipe.varied(row, settings, rng) for row in treebank)
    yield from (typed(row, rng) for name, row in drawn if name != SST2)
    yield from recipe.long_reviews(split.sentences, rng, count=made["long_reviews"])
    yield from recipe.written(templates.MAKERS, rng, count=made["patterns"])
    yield from recipe.written((templates.negated,), rng, count=made["negated"])
    statements = recipe.written((unreadable.plain,), rng, count=made["neutral"])
    yield from (Row(row.text, NEUTRAL) for row in statements)
    yield from (unreadable.unreadable(rng) for _ in range(made["unreadable"]))
    yield from (emoji.alone(rng) for _ in range(made["emoji"] // 3))
    certain = [row for row in split.phrases if len(row.text) < 100]
    plain = [unreadable.plain(rng) for _ in range(made["emoji"] // 8)]
    chosen = rng.sample(certain, min(len(certain), made["emoji"] // 2))
    yield from (emoji.with_emoji(row, rng) for row in chosen + plain)


def negations(sets: Sequence[LabelledSet], rng: Random, *, count: int) -> list[Drawn]:
    """`count` short texts of the sets with a negation, as many of each class; their targets are smoothed."""
    drawn: list[Drawn] = []
    for side in (0.0, 1.0):
        found = [
            Drawn(one.name, Row(row.text, abs(side - one.share.smoothing / 2)))
            for one in sets
            for row in one.rows
            if row.positive == side and has_negation(row.text)
        ]
        drawn += rng.sample(found, min(len(found), count // 2))
    return drawn


def review_sentences(sets: Sequence[LabelledSet], rng: Random, *, count: int) -> list[Drawn]:
    """`count` sentences of the sets with long texts, as many of each set."""
    long = [one for one in sets if one.share.words]
    drawn: list[Drawn] = []
    for one in long:
        found = dict.fromkeys(
            Drawn(SENTENCES, Row(sentence, row.positive))
            for row in one.rows
            for sentence in _SENTENCE_END.split(row.text)
            if 3 < len(sentence.split(" ")) <= 40
        )
        drawn += rng.sample(list(found), min(len(found), count // len(long)))
    return drawn


def has_negation(text: str) -> bool:
    """Whether a short text says "not", "never" or the like."""
    return len(text) < _SHORT and bool(_NEGATION.search(text.lower()))


def families(rows: Sequence[Row], rng: Random, *, count: int) -> list[list[Row]]:
    """`count` families of siblings, the shortest first; a quarter of them quote short ones of `rows`."""
    short = [row for row in rows if row.positive != 0.5 and 3 < len(row.text.split(" ")) < 16]
    drawn = [siblings(short, rng, count=SIBLINGS) for _ in range(count)]
    return sorted(drawn, key=lambda family: max(len(row.text) for row in family))


def typed(row: Row, rng: Random) -> Row:
    """A row as it is, or with one to three typing errors (one in five)."""
    if rng.random() > 0.2:
        return row
    return Row(augment.slips(row.text, rng, count=rng.randint(1, 3)), row.positive)


def _treebank(split: Split, made: dict[str, int], rng: Random) -> list[Row]:
    """Sentences and phrases of SST-2; phrases of one or two words half as often."""
    phrases = [row for row in split.phrases if rng.random() < (0.5 if row.text.count(" ") < 2 else 1.0)]
    whole, rest = divmod(made["sst2_sentences"], len(split.sentences))
    rows = [*split.sentences * whole, *rng.sample(split.sentences, rest)]
    return rows + rng.sample(phrases, min(made["sst2_phrases"], len(phrases)))
