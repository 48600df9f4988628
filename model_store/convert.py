"""Turns the weights of a BERT encoder into those of DistilBERT, and writes classifiers.

DistilBERT is BERT without token types and without the pooler. Token types are constant for a
single text, so adding row 0 of their table to every position gives the same hidden states.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.checkpoint import with_settings
from model_store.engines.families import BERT, DISTILBERT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DistilBertForSequenceClassification

LABELS = ("NEGATIVE", "POSITIVE")

# BERT name -> DistilBERT name, below `encoder.layer.N.` and `transformer.layer.N.`
_LAYER_NAMES = dict(zip(astuple(BERT), astuple(DISTILBERT), strict=True))


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


def export(
    model: DistilBertForSequenceClassification,
    source: Path,
    out: Path,
    *,
    temperature: float,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Write `model` in fp16 with the tokenizer of `source`: a plain Hugging Face directory.

    `dtype` in config.json stays float32, so that transformers computes in float32. transformers keeps the
    temperature and the thresholds in config.json, but does not use them.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # otherwise only its owner could read it, and not every worker
    config = with_settings(model.config.to_dict(), temperature=round(temperature, 4), thresholds=thresholds)
    config |= {"dtype": "float32", "architectures": [type(model).__name__]}
    for key in ("_name_or_path", "temperature"):
        config.pop(key, None)
    write_json(out / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())


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
