"""Makes SST-2 text look like real input: detokenised, misspelt, as tweets, and as long reviews.

Letter case is not changed, because the tokenizer lower-cases all text. Every function takes its randomness as
an argument and keeps the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from default_model.corpus import Row

# In this order: escapes and brackets, quotes, contractions, punctuation.
_DETOKENISE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\([/*])", r"\1"),
        (r"-lrb- ?", "("),
        (r" ?-rrb-", ")"),
        (r"`` ?", '"'),
        (r" ?''", '"'),
        (r"(?<!\S)` ", "'"),
        (r" (n't|'s|'re|'ve|'ll|'d|'m)(?!\w)", r"\1"),
        (r" '(?=\s|$)", "'"),
        (r"\b(gon|wan|got) (na|ta)\b", r"\1\2"),
        (r" ([,;:?!%)]|\.+)(?=\s|$|[\"')])", r"\1"),
        (r"([($]) ", r"\1"),
    )
)
_TURNS = ("But", "However,", "Still,", "And yet", "That said,", "Then again,")
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_HANDLES = ("@user", "@sam_w", "@jenny88", "@theRealTom", "@support")
_TAGS = ("#movies", "#fail", "#win", "#mondays", "#weekend", "#fyi", "#nowwatching", "#justsaying")
_SHORT = {"you": "u", "are": "r", "your": "ur", "because": "cuz", "really": "rly", "and": "&"}
_HAPPY = (":)", ":-)", ":D", "<3", ";)", "=)", "xoxo", "yay", "lol", "haha")
_SAD = (":(", ":-(", ":/", "D:", ">:(", "ugh", "smh", "wtf", ":'(", "-_-", "meh", "fml")
_STRETCHED = re.compile(r"([a-z]*?[b-df-hj-np-tv-z])([aeo])([a-z]{0,3})")


def detokenise(text: str) -> str:
    """Undo the treebank's tokenisation: "it ca n't -lrb- yet -rrb- last ." -> "it can't (yet) last."."""
    for pattern, replacement in _DETOKENISE:
        text = pattern.sub(replacement, text)
    return text.strip()


def end(text: str, rng: Random) -> str:
    """Vary the end of a text: unchanged, without punctuation, with exclamation marks or with dots."""
    bare = text.rstrip(" .!")
    return rng.choice((text, text, bare, f"{bare}.", f"{bare}!", f"{bare}!!", f"{bare}...")) if bare else text


def misspell(text: str, rng: Random, *, rate: float = 0.08) -> str:
    """Introduce a typing error into each word of four or more letters with probability `rate`."""
    words = text.split(" ")
    return " ".join(_slip(word, rng) if len(word) > 3 and rng.random() < rate else word for word in words)


def slips(text: str, rng: Random, *, count: int) -> str:
    """Introduce `count` typing errors into words of four or more letters; fewer if there are fewer words."""
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 3]
    for at in rng.sample(long, min(count, len(long))):
        words[at] = _slip(words[at], rng)
    return " ".join(words)


def tweet(row: Row, rng: Random) -> Row:
    """Turn a text into a tweet: handles, tags, links, stretched vowels, an emoticon of its polarity."""
    text = end(row.text, rng)
    if rng.random() < 0.4:
        text = text.replace("'", "")
    if rng.random() < 0.3:
        text = " ".join(_SHORT.get(word, word) for word in text.split(" "))
    if rng.random() < 0.2:
        text = _stretch(text, rng)
    if rng.random() < 0.4:
        text = f"{rng.choice(_HANDLES)} {text}"
    if row.positive != 0.5 and rng.random() < 0.35:
        text = f"{text} {rng.choice(_HAPPY if row.positive > 0.5 else _SAD)}"
    if rng.random() < 0.35:
        text = f"{text} {rng.choice(_TAGS)}"
    if rng.random() < 0.15:
        text = f"{text} http://t.co/{''.join(rng.choices('abcdefghjkmnpqr23456789', k=7))}"
    return Row(text, row.positive)


def long_review(
    draw: Callable[[Random, int], str],
    filler: Callable[[Random], str],
    verdict: Callable[[Random, int], str],
    rng: Random,
    *,
    sentences: int,
) -> Row:
    """Join sentences into one review with a random label. Most have its polarity, some the other or none.

    `draw` returns a sentence of a side (0 negative, 1 positive), `filler` a neutral one, `verdict` a closing
    one. A third of the reviews change sides: they begin with the other side and end with their label's.
    """
    side = rng.randrange(2)
    minority, neutral = rng.uniform(0, 0.3), rng.uniform(0, 0.5)
    parts = []
    for _ in range(sentences):
        if rng.random() < neutral:
            parts.append(filler(rng))
        else:
            parts.append(draw(rng, 1 - side if rng.random() < minority else side))
    if rng.random() < 0.33:
        before = [draw(rng, 1 - side) for _ in range(rng.randint(1, 1 + sentences // 3))]
        parts = [*before, f"{rng.choice(_TURNS)} {draw(rng, side)}", *parts]
    parts.append(verdict(rng, side) if rng.random() < 0.5 else draw(rng, side))
    return Row(" ".join(map(_as_sentence, parts)), float(side))


def _as_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _stretch(text: str, rng: Random) -> str:
    words = text.split(" ")
    at = rng.randrange(len(words))
    found = _STRETCHED.fullmatch(words[at])
    if found:
        words[at] = found[1] + found[2] * rng.randint(3, 5) + found[3]
    return " ".join(words)


def _slip(word: str, rng: Random) -> str:
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + _neighbour(word[at], rng) + word[at + 1 :]


def _neighbour(letter: str, rng: Random) -> str:
    for keys in _KEY_ROWS:
        at = keys.find(letter)
        if at >= 0:
            return keys[max(0, at - 1)] if rng.random() < 0.5 else keys[min(len(keys) - 1, at + 1)]
    return letter
