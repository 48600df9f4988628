"""A tokenized text, as tokenizers make it and engines read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text: token ids including special ones, at most `max_tokens` of them.

    `truncated` is the number of tokens that the model does not read. A text that is read in several `windows`
    has the ids of all of them, and each of these is a `part`. `foreign`: more than half of its pieces are
    unknown.
    """

    ids: Sequence[int]
    truncated: int
    unknown: int
    windows: tuple[Tokens, ...] = ()
    part: bool = False
    foreign: bool = False

    def __len__(self) -> int:
        return len(self.ids)
