"""A small grammar that generates everyday, product-review and negated sentences with a clear polarity."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from random import Random
from typing import Any

from default_model.corpus import Row

_BOOK: dict[str, dict[str, Any]] = tomllib.loads(
    resources.files("default_model").joinpath("phrasebook.toml").read_text("utf-8")
)


def _words(block: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in block.replace("\n", " ").split(","))


def _lines(block: str) -> tuple[str, ...]:
    return tuple(block.strip().splitlines())


def _sides(section: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _lines(section["negative"]), _lines(section["positive"])


_WORDS = {letter: _words(block) for letter, block in _BOOK["words"].items()}
_THINGS = [{letter: _words(block) for letter, block in kind.items()} for kind in _BOOK["things"].values()]
_PLAIN, _NEGATED, _VERDICT, _HAPPENING = (
    _sides(_BOOK[section]) for section in ("plain", "negated", "verdict", "happening")
)
_NEUTRAL, _STORY = (_lines(_BOOK[section]["sentences"]) for section in ("neutral", "story"))


def plain(rng: Random) -> Row:
    """Praise or blame of one thing: "The soup was cold."."""
    return _from_pattern(_PLAIN, _side(rng), rng)


def negated(rng: Random) -> Row:
    """Praise or blame through a negation or a contrast: "I thought it would be bad, but it wasn't."."""
    return _from_pattern(_NEGATED, _side(rng), rng)


def happening(rng: Random) -> Row:
    """An everyday event that is good or bad news, half of the time with a second sentence."""
    side = _side(rng)
    text = rng.choice(_HAPPENING[side])
    return Row(f"{text} {experience(rng, side)}" if rng.random() < 0.5 else text, float(side))


def neutral(rng: Random) -> Row:
    """A statement or question without polarity."""
    return Row(rng.choice(_NEUTRAL), 0.5)


def filler(rng: Random) -> str:
    """A sentence of a review that does not reveal its label, often a piece of the plot."""
    return rng.choice(_STORY if rng.random() < 0.7 else _NEUTRAL)


def verdict(rng: Random, side: int) -> str:
    """A closing sentence that states a review's label: side 0 is negative, 1 positive."""
    return _fill(rng.choice(_VERDICT[side]), rng)


def experience(rng: Random, side: int) -> str:
    """A sentence of a product or service review: an event, praise or blame."""
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(_HAPPENING[side])
    return _from_pattern(_PLAIN if draw < 0.75 else _NEGATED, side, rng).text


Maker = Callable[[Random], Row]
MAKERS: tuple[Maker, ...] = (plain, plain, negated, happening)


def _side(rng: Random) -> int:
    return rng.randrange(2)


def _from_pattern(sides: tuple[tuple[str, ...], tuple[str, ...]], side: int, rng: Random) -> Row:
    text = _fill(rng.choice(sides[side]), rng)
    return Row(text[0].upper() + text[1:] + rng.choice((".", ".", "!", "")), float(side))


def _fill(pattern: str, rng: Random) -> str:
    lists = _WORDS | rng.choice(_THINGS)
    return pattern.format_map({letter: rng.choice(words) for letter, words in lists.items()})
