"""Long texts in windows: overlapping pieces that a model reads one by one, and how their scores become one.

A setting is `TOKENS[:OVERLAP[:JOIN[:TEMPERATURE]]]`, e.g. `126:31:mean`. It comes from `text_windows` in a
model's config.json, or from the worker. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, cast, get_args

from model_store.errors import ModelError
from model_store.tokens import Tokens, in_groups

Join = Literal["mean", "max", "first_last"]
Scores = list[float]

OFF = "off"
# The most tokens that a model reads at once, whatever its files say: attention over more takes minutes on a
# processor, and proofs try every length in steps.
MAX_TOKENS = 8192
# The most windows of a text by default.
MAX_WINDOWS = 64
MIN_TOKENS = 16
# Overlap by default, as a share of a window.
_OVERLAP = 1 / 4
# What tokenizers add to a window. Some add less.
_SPECIAL_TOKENS = 2
# Tokens of a forward pass that only has windows of one call.
_BATCH_TOKENS = 1024
# The least score of an exclusive label, and the least distance of others from 0 and 1, to keep logits finite.
_MIN, _MIN_DISTANCE = 1e-300, 2**-50


@dataclass(frozen=True, slots=True)
class Windows:
    """How texts of more than `tokens` tokens are read: in windows of that size, including special tokens.

    Neighbours share `overlap` tokens. A text has at most `most` windows, and with `first_last` two: its first
    and its last. `join` is how their scores become one: the mean of their logits (also for `first_last`), or
    `max`, the highest score of each label, divided by the sum of these if labels are exclusive. The logits of
    a window are divided by `temperature`: windows that agree are surer than their mean.
    """

    tokens: int
    overlap: int
    join: Join
    most: int
    temperature: float = 1.0

    @property
    def most_tokens(self) -> int:
        """The tokens of the longest text that is read whole, of which windows share some."""
        further = 1 if self.join == "first_last" else self.most - 1
        return self.tokens + further * (self.tokens - self.overlap - _SPECIAL_TOKENS)

    def __str__(self) -> str:
        setting = f"{self.tokens}:{self.overlap}:{self.join}:{self.most}"
        return setting if self.temperature == 1.0 else f"{setting}:{self.temperature:g}"


def read_windows(setting: str, *, most: int, max_tokens: int) -> Windows | None:
    """Parses a setting; None for "" and `off`. Raises ModelError, also for windows beyond `max_tokens`."""
    if setting in ("", OFF):
        return None
    wrong = ModelError(
        f"Text windows must be TOKENS[:OVERLAP[:JOIN[:TEMPERATURE]]] with {MIN_TOKENS} to {max_tokens} "
        f"tokens, an overlap of at most half of them, {', '.join(get_args(Join))} as JOIN, and a "
        f"temperature of 0.1 to 10, not {setting!r}."
    )
    tokens, overlap, join, temperature, *more = f"{setting}:::".split(":")
    try:
        size, heat = int(tokens), float(temperature or 1)
        windows = Windows(size, int(overlap or size * _OVERLAP), cast("Join", join or "mean"), most, heat)
    except ValueError:
        raise wrong from None
    fits = MIN_TOKENS <= windows.tokens <= max_tokens and 0 <= windows.overlap <= windows.tokens // 2
    if any(more) or not fits or windows.join not in get_args(Join) or not 0.1 <= windows.temperature <= 10:
        raise wrong
    return windows


def joined(rows: Sequence[Scores], windows: Windows, *, multi_label: bool) -> Scores:
    """The scores of a text, from those of its windows (at least one).

    The mean of logits is computed from scores: adding a constant to all logits of a window changes neither.
    """
    columns = list(zip(*rows, strict=True))
    if windows.join == "max":
        weights = [max(column) for column in columns]
    elif multi_label:
        return [1 / (1 + math.exp(-fmean(map(_logit, column)))) for column in columns]
    else:
        logits = [fmean(math.log(max(score, _MIN)) for score in column) for column in columns]
        weights = [math.exp(logit - max(logits)) for logit in logits]
    return weights if multi_label else [weight / sum(weights) for weight in weights]


def _logit(score: float) -> float:
    score = min(max(score, _MIN_DISTANCE), 1 - _MIN_DISTANCE)
    return math.log(score / (1 - score))


def classify_long(
    batch: Sequence[Tokens],
    windows: Windows,
    classify: Callable[[Sequence[Tokens]], list[Scores]],
    *,
    multi_label: bool,
) -> list[Scores]:
    """Scores of texts, some longer than a window, by calls of `classify` with about 1024 tokens each."""
    pieces = [piece for text in batch for piece in text.windows or (text,)]
    rows: list[Scores] = []
    for group in in_groups(map(len, pieces), _BATCH_TOKENS):
        rows += classify([pieces[at] for at in group])
    found = iter(rows)
    return [
        joined([next(found) for _ in text.windows], windows, multi_label=multi_label)
        if text.windows
        else next(found)
        for text in batch
    ]
