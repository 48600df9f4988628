"""Converts a BERT encoder directory (all-MiniLM-L6-v2) to a DistilBERT classifier with a trimmed vocabulary.

DistilBERT is BERT without token types and without the pooler. Token types are constant for a
single text, so adding row 0 of their table to every position gives the same hidden states.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.checkpoint import TEMPERATURE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DistilBertForSequenceClassification

LABELS = ("NEGATIVE", "POSITIVE")
MAX_TOKENS = 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# BERT name -> DistilBERT name, below `encoder.layer.N.` and `transformer.layer.N.`
_LAYER_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
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


def encoder_weights(bert: dict[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """Rename BERT's tensors for DistilBertModel; `kept` lists the vocabulary rows to keep, in order."""
    weights = {
        "embeddings.word_embeddings.weight": bert["embeddings.word_embeddings.weight"][kept],
        "embeddings.position_embeddings.weight": bert["embeddings.position_embeddings.weight"]
        + bert["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        weights[f"embeddings.LayerNorm.{kind}"] = bert[f"embeddings.LayerNorm.{kind}"]
    for name, tensor in bert.items():
        if name.startswith("encoder.layer."):
            _, _, number, rest = name.split(".", 3)
            stem, _, kind = rest.rpartition(".")
            weights[f"transformer.layer.{number}.{_LAYER_NAMES[stem]}.{kind}"] = tensor
    return weights


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


def export(
    model: DistilBertForSequenceClassification, source: Path, out: Path, *, temperature: float, **keys: Any
) -> None:
    """Write `model` in fp16 with the tokenizer of `source`: a plain Hugging Face directory.

    `dtype` in config.json stays float32, so that transformers computes in float32. transformers keeps the
    temperature and further `keys` of config.json, but does not use them.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # otherwise only its owner could read it, and not every worker
    config = model.config.to_dict() | {"dtype": "float32", TEMPERATURE: round(temperature, 4)} | keys
    config["architectures"] = [type(model).__name__]
    for key in ("_name_or_path", "temperature"):
        config.pop(key, None)
    write_json(out / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())


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


def distilbert_config(bert: dict[str, Any], *, vocab_size: int) -> Any:
    from transformers import DistilBertConfig

    return DistilBertConfig(
        vocab_size=vocab_size,
        dim=bert["hidden_size"],
        hidden_dim=bert["intermediate_size"],
        n_layers=bert["num_hidden_layers"],
        n_heads=bert["num_attention_heads"],
        max_position_embeddings=bert["max_position_embeddings"],
        dropout=bert["hidden_dropout_prob"],
        attention_dropout=bert["attention_probs_dropout_prob"],
        activation=bert["hidden_act"],
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        architectures=["DistilBertForSequenceClassification"],
    )


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")
