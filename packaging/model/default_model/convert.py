"""Converts a BERT encoder (all-MiniLM-L6-v2) to a DistilBERT classifier with a trimmed vocabulary."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from model_store.convert import distilbert_config, encoder_weights, write_json

MAX_TOKENS = 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CURRENCY = "Sc"
_GENERAL_PUNCTUATION = range(0x2010, 0x2040)


def convert(base: Path, out: Path, *, trim: bool = True, seed: int = 0) -> None:
    """Write `base` (a BERT directory with tokenizer.json) as a DistilBERT classifier to `out`.

    The classifier head is random, drawn from `seed`: runs that start from the same converted directory share
    it, so their weights can be averaged. With `trim`, pieces that do not occur in English text are removed
    from the vocabulary. Raises FileNotFoundError if a file is missing.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import DistilBertForSequenceClassification

    bert = json.loads((base / "config.json").read_text("utf-8"))
    tokenizer = json.loads((base / "tokenizer.json").read_text("utf-8"))
    kept = _kept_ids(tokenizer["model"]["vocab"]) if trim else list(range(bert["vocab_size"]))
    weights = encoder_weights(load_file(base / "model.safetensors"), kept)

    torch.manual_seed(seed)
    model: DistilBertForSequenceClassification = DistilBertForSequenceClassification(
        distilbert_config(bert, vocab_size=len(kept))
    )
    missing, unexpected = model.distilbert.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(f"{base} is not a BERT encoder: missing {missing}, unexpected {unexpected}")
    model.save_pretrained(out)
    write_tokenizer(tokenizer, kept, out)


def write_tokenizer(tokenizer: dict[str, Any], kept: list[int], out: Path) -> None:
    """Write tokenizer.json with ids renumbered to `kept`, and without built-in truncation and padding."""
    new_id = {old: new for new, old in enumerate(kept)}
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {
        piece: new_id[old] for piece, old in sorted(vocab.items(), key=lambda item: item[1]) if old in new_id
    }
    for token in tokenizer["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[old] for old in token["ids"]]
    tokenizer["truncation"] = tokenizer["padding"] = None
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "tokenizer.json", tokenizer)
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "DistilBertTokenizer",
            "do_lower_case": True,
            "model_max_length": MAX_TOKENS,
            "model_input_names": ["input_ids", "attention_mask"],
            **names,
        },
    )


def _kept_ids(vocab: dict[str, int]) -> list[int]:
    return sorted(old for piece, old in vocab.items() if piece in SPECIAL or _is_english(piece))


def _is_english(piece: str) -> bool:
    if piece.startswith("[unused"):
        return False
    return all(map(_is_english_character, piece.removeprefix("##")))


def _is_english_character(character: str) -> bool:
    if character.isascii():
        return True
    return (
        unicodedata.name(character, "").startswith("LATIN SMALL")
        or unicodedata.category(character) == _CURRENCY
        or ord(character) in _GENERAL_PUNCTUATION
    )
