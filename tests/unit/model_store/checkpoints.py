"""Hugging Face directories of a few hundred kilobytes, in several architectures, with a real tokenizer.

As a program, this module writes one, and one whose weights are a pickle.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from model_store.random_model import write_random
from tests.lazy import load_file, torch, transformers

_BERT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 130, "initializer_range": 0.2, "vocab_size": 30522,
}  # fmt: skip
_SIZES: dict[str, dict[str, Any]] = {
    "DistilBert": {
        "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2,
        "max_position_embeddings": 128, "initializer_range": 0.2, "vocab_size": 30522,
    },
    "Bert": _BERT,
    "Roberta": {**_BERT, "pad_token_id": 1},
    "XLMRoberta": {**_BERT, "pad_token_id": 1},
    "Camembert": {**_BERT, "pad_token_id": 1},
    "Ernie": _BERT,
    "Electra": {**_BERT, "embedding_size": 16},
    "Albert": {**_BERT, "embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "MPNet": _BERT,
    "ModernBert": {
        **_BERT, "num_hidden_layers": 4, "local_attention": 32, "max_position_embeddings": 128,
        "pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102,
        "initializer_cutoff_factor": 3.0,
    },
    "DebertaV2": {
        **_BERT, "num_hidden_layers": 3, "relative_attention": True, "position_buckets": 32,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
        "position_biased_input": False, "type_vocab_size": 0,
    },
    "XLM": {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 30522, "pad_index": 0},
    "Funnel": {
        "d_model": 32, "d_head": 16, "d_inner": 64, "n_head": 2, "block_sizes": [1, 1], "vocab_size": 30522,
    },
    "SqueezeBert": {
        **_BERT, "embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1,
        "post_attention_groups": 1, "intermediate_groups": 1, "output_groups": 1,
    },
}  # fmt: skip


def write_checkpoint(path: Path, architecture: str = "DistilBert", *, labels: int = 2, **config: Any) -> Path:
    """Write a classifier whose random weights tell texts apart. Returns `path`."""
    template, state = _template()
    shutil.copytree(template, path, dirs_exist_ok=True)
    torch.set_rng_state(state)
    sizes = _SIZES[architecture]
    made = getattr(transformers, f"{architecture}Config")(**{**sizes, "num_labels": labels, **config})
    getattr(transformers, f"{architecture}ForSequenceClassification")(made).save_pretrained(path)
    return path


@functools.cache
def _template() -> tuple[Path, torch.Tensor]:
    """What every checkpoint has beside its weights, and the state in which random weights are drawn.

    Written once in a process: the vocabulary took as long as the weights.
    """
    path = Path(tempfile.mkdtemp(prefix="checkpoint-"))
    atexit.register(shutil.rmtree, path)
    write_random("tiny", path)
    (path / "model.safetensors").unlink()
    return path, torch.get_rng_state()


def copy(path: Path, to: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(path, to)
    return to


def write_pickled(checkpoint: Path, to: Path) -> None:
    """Write a copy whose weights are a pickle."""
    weights = copy(checkpoint, to) / "model.safetensors"
    torch.save(load_file(weights), to / "pytorch_model.bin")
    weights.unlink()


if __name__ == "__main__":
    made, pickled = map(Path, sys.argv[1:])
    write_pickled(write_checkpoint(made), pickled)
