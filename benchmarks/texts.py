"""Texts for benchmarks: seeded, unique, as long as people's (log-normal, 3 to 100 words, mean 15)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

MIN_WORDS = 3
MAX_WORDS = 100
# exp(mu + sigma^2 / 2) is 15.3 before clipping, 15.1 after.
_MU = math.log(12.0)
_SIGMA = 0.7

_VOCABULARY = """
the a an this that these those it its he she they we you i my your our their his her one two three first
last next and but or so because although while when where who what which how if than as at by for from in
into of off on onto out over to under up with without about after again against before behind below between
down during until is are was were be been being am do does did have has had can could may might must shall
should will would not no never hardly always often sometimes usually really very quite rather almost too
also even just only still yet film movie story plot actor actress scene ending director camera music song
dialogue character cast script theatre food soup pizza coffee breakfast dinner waiter kitchen table menu
price bill service hotel room bed shower window phone battery screen charger laptop keyboard cable printer
camera app update password account website order parcel train bus flight airport ticket seat station driver
road traffic bridge city village market street house garden door doctor nurse teacher student neighbour
friend brother sister mother father child baby dog cat team player coach game morning evening night weekend
summer winter monday friday hour minute week month year moment time day place thing way good great excellent
wonderful lovely brilliant superb delightful charming funny warm fresh clean quick friendly happy bad awful
terrible horrible boring dull slow dirty cold broken rude noisy cheap expensive late sad angry tired empty
love loved like liked enjoy enjoyed hate hated dislike disliked recommend recommended regret expected wanted
needed make made take took give gave get got come came go went see saw look looked feel felt think thought
know knew say said tell told ask asked work worked run ran walk walked wait waited arrive arrived leave left
open opened close closed buy bought sell sold pay paid eat ate drink drank read write wrote watch watched
listen listened call called stop started surprisingly disappointing unforgettable overpriced underwhelming
heartwarming mediocre predictable refreshing clumsy performance atmosphere experience customer refund
delivery packaging instructions replacement quality conversation
"""
WORDS = tuple(_VOCABULARY.split())


def texts(count: int, seed: int = 0) -> list[str]:
    """`count` different texts; the same ones for the same seed."""
    source = stream(seed)
    return [next(source) for _ in range(count)]


def stream(seed: int = 0) -> Iterator[str]:
    """Different texts without end."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        words = rng.lognormvariate(_MU, _SIGMA)
        text = _sentence(rng, min(MAX_WORDS, max(MIN_WORDS, round(words))))
        if text not in seen:
            seen.add(text)
            yield text


def long_texts(count: int, words: int, seed: int = 0) -> list[str]:
    """`count` texts of exactly `words` words; the same ones for the same seed."""
    rng = random.Random(seed)
    return [_sentence(rng, words) for _ in range(count)]


def _sentence(rng: random.Random, words: int) -> str:
    chosen = rng.choices(WORDS, k=words)
    commas = rng.sample(range(words - 1), k=(words - 1) // 10)
    for position in commas:
        chosen[position] += ","
    text = " ".join(chosen)
    return text[0].upper() + text[1:] + rng.choice((".", ".", ".", "!", "?"))
