"""Refuses a tokenizer that does not belong to the model, which would make every prediction wrong."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from model_store.checkpoint import VOCABULARIES
from model_store.errors import ModelUnsupported
from model_store.rows import Tokenizer

# A model often has a few more embeddings than its tokenizer has pieces, but never twice as many.
MIN_SHARE = 0.5
# A tokenizer whose share of unknown pieces is above this in each of the languages below knows none of them.
MAX_UNKNOWN = 0.5

_LANGUAGES = (
    "The food was very good, but the waiter forgot our drinks.",
    "Еда была очень вкусной, но официант забыл напитки.",
    "Το φαγητό ήταν πολύ καλό, αλλά ο σερβιτόρος ξέχασε τα ποτά.",
    "كان الطعام جيدا جدا لكن النادل نسي المشروبات",
    "האוכל היה טוב מאוד אבל המלצר שכח את המשקאות",
    "खाना बहुत अच्छा था लेकिन वेटर पेय भूल गया",
    "อาหารอร่อยมากแต่พนักงานลืมเครื่องดื่ม",
    "饭菜很好吃，但是服务员忘了我们的饮料。",
    "料理はとてもおいしかったが、飲み物を忘れられた。",
    "음식은 아주 맛있었지만 종업원이 음료를 잊었어요.",
)


def require_vocabulary(path: Path) -> None:
    """Raises ModelUnsupported if the checkpoint at `path` has no file with a vocabulary.

    transformers would invent a vocabulary of five pieces.
    """
    if not any((path / name).is_file() for name in VOCABULARIES):
        first, *others = VOCABULARIES
        raise ModelUnsupported(
            f"{path} has no tokenizer: put its {first} (or {', '.join(others)}) next to config.json."
        )


def check_tokenizer(path: Path, rows: int | None, max_tokens: int) -> None:
    """Raises ModelUnsupported if tokenizer.json at `path` does not fit a model with `rows` embeddings."""
    rust = _read(path)
    known = rust.get_vocab(with_added_tokens=False)
    if rows is not None and len(known) < MIN_SHARE * rows:
        raise ModelUnsupported(
            f"The tokenizer knows {len(known)} pieces and the model {rows}: they do not belong together; "
            "use the tokenizer that the model was trained with."
        )
    # With the added ones, which a text that contains their names gets.
    name, highest = max(rust.get_vocab().items(), key=itemgetter(1), default=("", -1))
    if rows is not None and highest >= rows:
        raise ModelUnsupported(
            f"The tokenizer gives ids up to {highest} ({name!r}) and the model knows ids below {rows}: they "
            "do not belong together; use the tokenizer that the model was trained with."
        )
    tokenize = Tokenizer(path, max_tokens)
    (empty, *texts) = tokenize(["", *_LANGUAGES])
    if len(empty) >= max_tokens:
        raise ModelUnsupported(
            f"The model can read {max_tokens} tokens, and the tokenizer adds {len(empty)} to every text, so "
            "that none is left for its words: correct model_max_length in tokenizer_config.json."
        )
    if rows is not None and (most := max(max(text.ids, default=0) for text in texts)) >= rows:
        raise ModelUnsupported(
            f"The tokenizer adds the id {most} to texts and the model knows ids below {rows}: they do not "
            "belong together; use the tokenizer that the model was trained with."
        )
    shares = [text.unknown / max(len(text) - len(empty), 1) for text in texts]
    if min(shares) > MAX_UNKNOWN:
        raise ModelUnsupported(
            f"The tokenizer knows hardly any word: at least {min(shares):.0%} of the pieces of a sentence "
            "are unknown in each of ten languages; use the tokenizer that the model was trained with."
        )


def _read(path: Path) -> RustTokenizer:
    try:
        return RustTokenizer.from_file(str(path))
    except Exception as error:  # the library has no separate class for them
        raise ModelUnsupported(
            f"The model's {path.name} cannot be read: {error}; copy it again from where the model is from."
        ) from error
