"""Turns texts into `Tokens` with the model's tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.normalizers import BertNormalizer

from model_store.classifier import Tokens


class Tokenizer:
    """The tokenizer of one model, truncating at its limit. Thread-safe."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        # A text takes only 25 us, so threads of the tokenizer would merely compete with those of the engine.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._rust = RustTokenizer.from_file(str(path))
        self._plain = _for_plain_texts(self._rust)
        for rust in filter(None, (self._rust, self._plain)):
            rust.no_padding()
            rust.enable_truncation(max_tokens)
        self._lowercase = bool(getattr(self._rust.normalizer, "lowercase", False))
        self._max_tokens = max_tokens
        self._unknown = _unknown_id(self._rust)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids of each text, including special tokens, at most `max_tokens`. Releases the GIL."""
        result = []
        for encoding in self._encode(list(texts)):
            ids = encoding.ids
            truncated = self._left_out(encoding) if len(ids) == self._max_tokens else 0
            unknown = 0 if self._unknown is None else ids.count(self._unknown)
            result.append(Tokens(ids, truncated=truncated, unknown=unknown))
        return result

    def _left_out(self, encoding: Encoding) -> int:
        """The number of tokens of a text that are beyond the limit, without special tokens."""
        return sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._plain is None:
            return self._rust.encode_batch_fast(texts)
        plain = [is_plain(text) for text in texts]
        simple = [text.lower() if self._lowercase else text for text in compress(texts, plain)]
        encoded = iter(self._plain.encode_batch_fast(simple))
        others = iter(self._rust.encode_batch_fast(list(compress(texts, (not one for one in plain)))))
        return [next(encoded if one else others) for one in plain]


def is_plain(text: str) -> bool:
    """Whether a BERT normaliser would only lower-case the text, and the text contains no special token."""
    return text.isascii() and text.isprintable() and "[" not in text


def _for_plain_texts(full: RustTokenizer) -> RustTokenizer | None:
    """A tokenizer without the normaliser, which takes half the time; None for other kinds of normalisers."""
    named = [token.content for token in full.get_added_tokens_decoder().values()]
    if not isinstance(full.normalizer, BertNormalizer) or any("[" not in name for name in named):
        return None
    plain = RustTokenizer(full.model)
    plain.pre_tokenizer = full.pre_tokenizer
    plain.post_processor = full.post_processor
    return plain


def _unknown_id(tokenizer: RustTokenizer) -> int | None:
    token = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(token) if token else None
