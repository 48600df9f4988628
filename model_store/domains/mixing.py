"""Draws the rows of an epoch from a mixture of sets, SST-2 and hand-written files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from model_store import augment, recipe, templates
from model_store.corpus import Row, Split
from model_store.domains import emoji, unreadable
from model_store.domains.sets import LabelledSet, Mixture, draw
from model_store.domains.siblings import siblings
from model_store.recipe import Recipe

SIBLINGS = 8  # rows of one family
_SHORT = 160  # characters
_NEGATION = re.compile(
    r"\b(no(t|ne|thing|body)?|never|without|hardly|cannot)\b|n't\b|\b(ca|wo|do|is|was)nt\b"
)


def epoch_rows(
    split: Split, mixture: Mixture, settings: Recipe, rng: Random, answers: Mapping[str, float]
) -> Iterator[Row]:
    """The rows of one epoch, without siblings.

    `answers`: a teacher's P(positive) of texts of SST-2, which is half of their targets.
    """
    made = mixture.made
    treebank = _treebank(split, made, rng)
    taught = [Row(row.text, (row.positive + answers.get(row.text, row.positive)) / 2) for row in treebank]
    yield from (recipe.varied(row, settings, rng) for row in taught)
    yield from recipe.long_reviews(split.sentences, rng, count=made["long_reviews"])
    yield from recipe.written(templates.MAKERS, rng, count=made["patterns"])
    yield from recipe.written((templates.negated,), rng, count=made["negated"])
    yield from recipe.written((unreadable.plain,), rng, count=made["neutral"])
    yield from (unreadable.unreadable(rng) for _ in range(made["unreadable"]))
    drawn = [row for one in mixture.sets for row in draw(one, rng)]
    yield from (typed(row, rng) for row in drawn)
    yield from (typed(row, rng) for row in negations(mixture.sets, rng, count=made["negations"]))
    yield from (emoji.alone(rng) for _ in range(made["emoji"] // 3))
    short = [row for row in treebank if len(row.text) < 100]
    plain = [unreadable.plain(rng) for _ in range(made["emoji"] // 8)]
    chosen = rng.sample(short, min(len(short), made["emoji"] // 2))
    yield from (emoji.with_emoji(row, rng) for row in chosen + plain)


def negations(sets: Sequence[LabelledSet], rng: Random, *, count: int) -> list[Row]:
    """`count` short texts of the sets with a negation, as many of each class; their targets are smoothed."""
    drawn = []
    for side in (0.0, 1.0):
        found = [
            Row(row.text, abs(side - one.share.smoothing / 2))
            for one in sets
            for row in one.rows
            if row.positive == side and len(row.text) < _SHORT and _NEGATION.search(row.text.lower())
        ]
        drawn += rng.sample(found, min(len(found), count // 2))
    return drawn


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
    rows = rng.sample(split.sentences, min(made["sst2_sentences"], len(split.sentences)))
    return rows + rng.sample(phrases, min(made["sst2_phrases"], len(phrases)))
