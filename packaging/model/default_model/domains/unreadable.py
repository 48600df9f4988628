"""Texts to which the fair answer is 0.5: plain statements, nothing at all, and what the model cannot read."""

from __future__ import annotations

import tomllib
from importlib import resources
from random import Random

from default_model import templates
from default_model.corpus import Row

_BOOK: dict[str, dict[str, str]] = tomllib.loads(
    resources.files("default_model.domains").joinpath("unreadable.toml").read_text("utf-8")
)
_WORDS = {
    letter: tuple(word.strip() for word in block.replace("\n", " ").split(","))
    for letter, block in _BOOK["words"].items()
}
_PLAIN = tuple(_BOOK["plain"]["sentences"].strip().splitlines())
_LANGUAGES = tuple(_BOOK["languages"]["sentences"].strip().splitlines())
# First and last letters: Cyrillic, Greek, Hebrew, Arabic, Devanagari, Thai, Hangul, kana, Chinese, Georgian.
_SCRIPTS = (
    (0x430, 0x44F), (0x3B1, 0x3C9), (0x5D0, 0x5EA), (0x621, 0x64A), (0x905, 0x939), (0xE01, 0xE2E),
    (0xAC00, 0xD7A3), (0x3042, 0x3093), (0x4E00, 0x9FA5), (0x10D0, 0x10F0),
)  # fmt: skip
_KEYS = "qwertyuiopasdfghjklzxcvbnm"


def plain(rng: Random) -> Row:
    """A statement or question without a verdict, sometimes two."""
    if rng.random() < 0.15:
        return templates.neutral(rng)
    texts = [_statement(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    return Row(" ".join(texts), 0.5)


def unreadable(rng: Random) -> Row:
    """Nothing, marks, numbers, keys hit at random, another script, or another language."""
    draw = rng.random()
    if draw < 0.12:
        return Row("", 0.5)
    if draw < 0.22:
        return Row("".join(rng.choices(".,-?:/()#0123456789 ", k=rng.randint(1, 8))), 0.5)
    if draw < 0.3:
        return Row(" ".join(_word(rng, _KEYS) for _ in range(rng.randint(1, 6))), 0.5)
    if draw < 0.6:
        first, last = rng.choice(_SCRIPTS)
        letters = "".join(map(chr, range(first, last + 1)))
        ends = rng.choice(("", ".", "!", "?"))
        return Row(" ".join(_word(rng, letters) for _ in range(rng.randint(1, 20))) + ends, 0.5)
    words = rng.choice(_LANGUAGES).split(" ")
    if rng.random() < 0.4:
        first = rng.randrange(max(1, len(words) - 3))
        words = words[first : first + rng.randint(3, len(words))]
    return Row(" ".join(words), 0.5)


def _statement(rng: Random) -> str:
    pattern = rng.choice(_PLAIN)
    words = {letter: rng.choice(words) for letter, words in _WORDS.items()}
    text = pattern.format_map(words)
    text = text[:1].upper() + text[1:]
    return text if text.endswith("?") else text + rng.choice((".", ".", "", "!"))


def _word(rng: Random, letters: str) -> str:
    return "".join(rng.choices(letters, k=rng.randint(1, 9)))
