"""Token ids of many texts. Standard library only."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

# Texts that are tokenised together: an encoding takes many times the memory of its ids.
SLICE = 256


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int | None = None) -> Iterator[Sequence[int]]:
    """Token ids of each text, with special tokens, at most `max_tokens` if there is a limit."""
    for start in range(0, len(texts), SLICE):
        some = list(texts[start : start + SLICE])
        found = tokenizer(some, truncation=max_tokens is not None, max_length=max_tokens)
        # An array takes four bytes a token; a list of large numbers takes 36.
        yield from (array("i", ids) for ids in found["input_ids"])
