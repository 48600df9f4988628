"""A BERT directory of a few kilobytes, with the traps of the real one, and data to train on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lazy import torch, transformers

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["good", "bad", "film", "the", "is", "not", "a", "##s", ".", ",", "'", "café", "в", "##文", "€"]


def write_bert(path: Path) -> Path:
    """Write config, weights and a tokenizer.json with truncation and padding baked in. Returns `path`."""
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL + PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    path.mkdir()
    transformers.BertModel(config).save_pretrained(path)
    ids = {piece: number for number, piece in enumerate(SPECIAL + PIECES)}
    (path / "tokenizer.json").write_text(json.dumps(_tokenizer(ids)))
    return path


def write_data(path: Path) -> Path:
    """Write train.tsv, train_sentences.tsv and dev.tsv. Returns `path`."""
    path.mkdir()
    endings = ["the film", "a film", "films", "the films", "a film , a film", "film film film"]
    full = [f"{word} {ending} .\t{word == 'good':d}" for word in ("good", "bad") for ending in endings]
    phrases = [f"{word} {ending}\t{word == 'good':d}" for word in ("good", "bad") for ending in endings]
    for name, rows in (
        ("train.tsv", full + phrases),
        ("train_sentences.tsv", full),
        ("dev.tsv", ["is it good\t1"]),
    ):
        (path / name).write_text("\n".join(["sentence\tlabel", *rows, ""]))
    return path


def _tokenizer(ids: dict[str, int]) -> dict[str, object]:
    def special(token: str) -> dict[str, object]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [
            {"id": ids[token], "special": True, "content": token, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for token in SPECIAL if token != "[unused0]"
        ],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": False, "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), sequence, special("[SEP]")],
            "pair": [special("[CLS]"), sequence, special("[SEP]"), {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    }  # fmt: skip
