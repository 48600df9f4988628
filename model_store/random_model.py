"""Checkpoints with random weights, for benchmarks and tests: as fast as real models of the same shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from model_store.errors import ModelError
from model_store.prepare import DEFAULT

LABELS = ("NEGATIVE", "POSITIVE")
_DEBERTA_V3 = {
    "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "position_biased_input": False,
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 256, "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}  # fmt: skip
_MODERNBERT = {"max_position_embeddings": 512, "pad_token_id": 0, "classifier_pooling": "mean"}
# The family of transformers, and the settings of its config.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert-base": ("DistilBert", {"dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12}),
    "minilm": ("DistilBert", {"dim": 384, "hidden_dim": 1536, "n_layers": 6, "n_heads": 12}),
    "tiny": ("DistilBert", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}),
    "bert-base": ("Bert", {}),
    "roberta-base": ("Roberta", {"max_position_embeddings": 514}),
    "electra-small": ("Electra", {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4}),
    "albert-base": ("Albert", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "mpnet-base": ("MPNet", {"max_position_embeddings": 514}),
    "modernbert-base": ("ModernBert", _MODERNBERT),
    "deberta-v3-small": ("DebertaV2", {**_DEBERTA_V3, "num_hidden_layers": 6}),
    "deberta-v3-base": ("DebertaV2", {**_DEBERTA_V3, "num_hidden_layers": 12}),
}
# With transformers' default, weights are so small that all texts get nearly the same scores.
_SPREAD = 0.05


def write_random(shape: str, out: Path, *, seed: int = 0) -> None:
    """Write a classifier of `shape` (a key of SHAPES) to `out`. Raises ModelError."""
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    if shape not in SHAPES:
        raise ModelError(f"Unknown shape {shape}; choose one of {', '.join(SHAPES)}.")
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty: choose another directory with --out.")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(out)
    disable_progress_bar()
    torch.manual_seed(seed)
    family, settings = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(
        **settings,
        vocab_size=len(tokenizer["model"]["vocab"]),
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        initializer_range=_SPREAD,
    )
    getattr(transformers, f"{family}ForSequenceClassification")(config).save_pretrained(out)


def _write_tokenizer(out: Path) -> dict[str, Any]:
    """Writes the tokenizer of the embedded default or, without it, of the package of its base model."""
    from model_store.training.base import find_base

    source = DEFAULT if (DEFAULT / "tokenizer.json").is_file() else find_base("minilm")
    tokenizer: dict[str, Any] = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer["truncation"] = tokenizer["padding"] = None
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    shutil.copyfile(source / "tokenizer_config.json", out / "tokenizer_config.json")
    return tokenizer
