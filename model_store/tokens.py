"""A tokenized text, as tokenizers make it and engines read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile


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


def in_groups(sizes: Iterable[int], most: int) -> list[list[int]]:
    """Divides texts of these sizes, in order, into groups of at most so many tokens; returns indices.

    A larger text is alone in its group.
    """
    groups: list[list[int]] = []
    used = 0
    for index, size in enumerate(sizes):
        used += size
        if not groups or used > most:
            groups.append([])
            used = size
        groups[-1].append(index)
    return groups


def common_start(one: Iterable[int], other: Iterable[int]) -> int:
    """With how many equal ids two texts begin."""
    pairs = zip(one, other, strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
