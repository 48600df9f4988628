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
from model_store.windows import Windows


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
        self._windows: Windows | None = None
        self._unknown = _unknown_id(self._rust)

    def read_in(self, windows: Windows) -> None:
        """Return texts of more than `windows.tokens` tokens in windows from now on."""
        self._windows, self._max_tokens = windows, windows.tokens
        for rust in filter(None, (self._rust, self._plain)):
            rust.enable_truncation(windows.tokens, stride=windows.overlap)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids of each text, including special tokens, at most `max_tokens`. Releases the GIL."""
        result = []
        for encoding in self._encode(list(texts)):
            ids = encoding.ids
            if len(ids) == self._max_tokens and (rest := encoding.overflowing):
                result.append(self._long(encoding, rest))
            else:
                result.append(Tokens(ids, truncated=0, unknown=self._unknowns(ids)))
        return result

    def _long(self, first: Encoding, rest: list[Encoding]) -> Tokens:
        """A text of which only the `first` part fits into the limit, or into a window."""
        if self._windows is None:
            return Tokens(first.ids, truncated=sum(map(_own, rest)), unknown=self._unknowns(first.ids))
        parts = [first, *rest]
        ends = self._windows.join == "first_last"
        chosen = [first, rest[-1]] if ends else parts[: self._windows.most]
        # A part shares tokens with the one before: those that are left out also with the next one. The first
        # and the last one may share some, too.
        shared = len(parts) - 1 if ends and len(rest) > 1 else len(parts) - len(chosen)
        left_out = sum(map(_own, parts)) - sum(map(_own, chosen)) - shared * self._windows.overlap
        windows = tuple(Tokens(part.ids, 0, self._unknowns(part.ids), part=True) for part in chosen)
        ids = [piece for window in windows for piece in window.ids]
        return Tokens(ids, max(left_out, 0), sum(window.unknown for window in windows), windows)

    def _unknowns(self, ids: list[int]) -> int:
        return 0 if self._unknown is None else ids.count(self._unknown)

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._plain is None:
            return self._rust.encode_batch_fast(texts)
        plain = [is_plain(text) for text in texts]
        simple = [text.lower() if self._lowercase else text for text in compress(texts, plain)]
        encoded = iter(self._plain.encode_batch_fast(simple))
        others = iter(self._rust.encode_batch_fast(list(compress(texts, (not one for one in plain)))))
        return [next(encoded if one else others) for one in plain]


def special_ids(path: Path) -> list[int]:
    """The ids of a tokenizer.json that a text gets by naming a special token, such as "[SEP]"."""
    added = RustTokenizer.from_file(str(path)).get_added_tokens_decoder()
    return sorted(number for number, token in added.items() if token.special)


def _own(part: Encoding) -> int:
    """The number of tokens of a part, without special tokens."""
    own: int = part.special_tokens_mask.count(0)
    return own


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
