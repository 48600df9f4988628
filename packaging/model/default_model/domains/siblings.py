"""Sets of sentences that differ only in the people, names and places they mention: counterfactual siblings.

The loss of a set has, besides the labels', a term for the spread of its members' answers (Garg et al.,
"Counterfactual fairness in text classification through robustness", 2019).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from random import Random

from default_model.corpus import Row

_BOOK: dict[str, dict[str, str]] = tomllib.loads(
    resources.files("default_model.domains").joinpath("siblings.toml").read_text("utf-8")
)


def _words(block: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in block.replace("\n", " ").split(","))


# Beside 0.5, so that small differences do not change the label of a neutral sentence.
NEUTRAL = 0.56
_ARTICLE = re.compile(r"(^|\s)a (?=[aeio8AEIO])")
_GROUPS = [_words(block) for block in _BOOK["groups"].values()]
_NAMES, _PLACES, _PRONOUNS, _PEOPLE = (
    _words(_BOOK["names"][kind]) for kind in ("names", "places", "pronouns", "people")
)
_NEUTRAL, _POSITIVE, _NEGATIVE, _FRAMES = (
    tuple(_BOOK["sentences"][kind].strip().splitlines())
    for kind in ("neutral", "positive", "negative", "frames")
)


def siblings(labelled: Sequence[Row], rng: Random, *, count: int) -> list[Row]:
    """`count` rows with one pattern and one target; each has other people, names and places.

    Half of the sets are neutral, a quarter have a verdict, the rest quote one of the `labelled` texts.
    """
    draw = rng.random()
    target, quoted = NEUTRAL, ""
    if draw < 0.5:
        pattern = rng.choice(_NEUTRAL)
    elif draw < 0.75:
        target = float(rng.randrange(2))
        pattern = rng.choice(_POSITIVE if target else _NEGATIVE)
    else:
        quoted, target = rng.choice(labelled)
        pattern = rng.choice(_FRAMES)
    kept = {"J": rng.choice(_PEOPLE), "W": rng.choice(_PRONOUNS)}
    groups = rng.choice(_GROUPS) if rng.random() < 0.7 else sum(_GROUPS, ())
    finish = rng.choice((".", ".", "", "!")) if target != NEUTRAL else rng.choice((".", ".", ""))
    rows = []
    for _ in range(count):
        words = {"G": rng.choice(groups), "H": rng.choice(_NAMES), "P": rng.choice(_PLACES)} | kept
        if "{G}" not in pattern and "{H}" not in pattern and "{P}" not in pattern:
            words["W"] = rng.choice(_PRONOUNS)
        text = _agree(pattern.format_map(words | {"Q": quoted}))
        rows.append(Row(text if quoted else text + finish, target))
    return rows


def _agree(text: str) -> str:
    """The article and verb that fit the words drawn: "a old man" -> "an old man", "they all is" -> "are"."""
    text = _ARTICLE.sub(r"\1an ", text)
    return text.replace("they all is ", "they all are ").replace("they all is.", "they all are.")
