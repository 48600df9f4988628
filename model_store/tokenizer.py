"""From texts to `Tokens`, by the model's own tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from model_store.classifier import Tokens


class Tokenizer:
    """The tokenizer of one model, truncating at its limit. Thread-safe."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        # Its threads would only take turns with the engine's: one text costs 25 us.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._rust = RustTokenizer.from_file(str(path))
        self._rust.no_padding()
        self._rust.enable_truncation(max_tokens)
        self._max_tokens = max_tokens
        self._unknown = _unknown_id(self._rust)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids of each text with the special ones, at most `max_tokens`. Releases the GIL while it works."""
        encodings = self._rust.encode_batch_fast(list(texts))
        result = []
        for encoding in encodings:
            ids = encoding.ids
            truncated = len(ids) == self._max_tokens and bool(encoding.overflowing)
            unknown = 0 if self._unknown is None else ids.count(self._unknown)
            result.append(Tokens(ids, truncated=truncated, unknown=unknown))
        return result


def _unknown_id(tokenizer: RustTokenizer) -> int | None:
    token = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(token) if token else None
