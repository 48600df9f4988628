"""The hyperparameters of a training run, and the rows of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from default_model import augment, templates
from default_model.corpus import Row, Split

_Number = TypeVar("_Number", int, float)


def _option(default: _Number, meaning: str) -> _Number:
    """A field of Recipe with its text for `--help`."""
    value: _Number = field(default=default, metadata={"help": meaning})
    return value


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of a run. Equal recipes and equal data give equal weights."""

    seed: int = _option(1, "seed of all randomness except the head of the converted base")
    epochs: int = _option(2, "number of epochs")
    batch_rows: int = _option(64, "rows of a batch")
    batch_tokens: int = _option(
        4096, "limit of rows x longest row, which makes batches of long reviews smaller"
    )
    max_tokens: int = _option(288, "longer rows are truncated")
    learning_rate: float = _option(8e-5, "learning rate of the head; decreases towards the embeddings")
    layer_decay: float = _option(1.0, "learning rate of a layer relative to the layer above it")
    warmup_share: float = _option(0.06, "share of the steps before the learning rate decreases linearly to 0")
    weight_decay: float = _option(0.01, "weight decay of matrices, but not of biases and norms")
    label_smoothing: float = _option(0.05, "share of a target that is spread over both labels")
    consistency: float = _option(
        1.0, "weight of the difference between two dropouts of a row; costs a second forward pass"
    )
    teacher_share: float = _option(
        0.5, "share of a target that is the mean probability of the teachers, if there are any"
    )
    average_decay: float = _option(
        0.998, "decay of the moving average of the weights; 0 keeps the last weights"
    )
    phrase_share: float = _option(1.0, "share of the phrases, drawn in each epoch; short ones half as often")
    sentence_repeat: int = _option(1, "how often each full sentence occurs in an epoch")
    natural_share: float = _option(0.5, "share of the rows that are detokenised")
    noise_share: float = _option(
        0.1, "share of the rows that become tweets (half) or get typing errors (half)"
    )
    long_share: float = _option(0.3, "long reviews per full sentence")
    template_share: float = _option(0.08, "sentences from templates per row of SST-2")
    neutral_share: float = _option(0.01, "neutral statements with target 0.5 per row of SST-2")
    held_out: int = _option(200, "full sentences held out to choose recipes and fit the temperature")
    limit: int = _option(0, "use only this many phrases and sentences, for experiments (0: all)")


def epoch_rows(split: Split, recipe: Recipe, epoch: int) -> list[Row]:
    """The rows of one epoch, with new augmentations. Deterministic; epochs count from 0."""
    rng = Random(f"{recipe.seed}/{epoch}")
    rows = [row for row in split.phrases if rng.random() < recipe.phrase_share * _phrase_weight(row)]
    rows += [row for row in split.sentences for _ in range(recipe.sentence_repeat)]
    count = len(rows)
    rows = [varied(row, recipe, rng) for row in rows]
    rows += long_reviews(split.sentences, rng, count=int(len(split.sentences) * recipe.long_share))
    rows += written(templates.MAKERS, rng, count=int(count * recipe.template_share))
    rows += written((templates.neutral,), rng, count=int(count * recipe.neutral_share))
    return rows


def _phrase_weight(row: Row) -> float:
    """Phrases of one or two words are often ambiguous without their sentence, so use them half as often."""
    return 0.5 if row.text.count(" ") < 2 else 1.0


def varied(row: Row, recipe: Recipe, rng: Random) -> Row:
    draw = rng.random()
    if draw < recipe.noise_share / 2:
        return augment.tweet(Row(augment.detokenise(row.text), row.positive), rng)
    if draw < recipe.noise_share:
        return Row(augment.misspell(augment.detokenise(row.text), rng, rate=0.2), row.positive)
    if draw < recipe.noise_share + recipe.natural_share:
        text = augment.detokenise(row.text)
        return Row(augment.end(text, rng) if rng.random() < 0.3 else text, row.positive)
    return row


def long_reviews(sentences: Sequence[Row], rng: Random, *, count: int) -> list[Row]:
    """Reviews: two thirds about films, from `sentences`; one third about products, from templates."""
    sides = [[row.text for row in sentences if row.positive == side] for side in (0, 1)]

    def film(rng: Random, side: int) -> str:
        return augment.detokenise(rng.choice(sides[side]))

    reviews = []
    for number in range(count if all(sides) else 0):
        draw = templates.experience if number % 3 == 0 else film
        length = min(12, 2 + int(rng.expovariate(0.3)))
        reviews.append(augment.long_review(draw, templates.filler, templates.verdict, rng, sentences=length))
    return reviews


def written(makers: Sequence[Callable[[Random], Row]], rng: Random, *, count: int) -> list[Row]:
    rows = []
    for _ in range(count):
        row = rng.choice(makers)(rng)
        draw = rng.random()
        if draw < 0.2:
            row = augment.tweet(row, rng)
        elif draw < 0.45:
            row = Row(augment.misspell(row.text, rng, rate=0.25), row.positive)
        rows.append(row)
    return rows
