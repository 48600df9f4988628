"""A small random checkpoint of every architecture of transformers that classifies texts."""

from __future__ import annotations

import inspect
import math
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.families.tokenizers import VOCABULARY, write_tokenizer
from tests.lazy import inference_mode, save_file, torch, transformers

LABELS = {0: "negative", 1: "neutral", 2: "positive"}
POSITIONS = 96


@cache
def families() -> dict[str, str]:
    """The classes by the name of their kind of config."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return {family: name if isinstance(name, str) else name[0] for family, name in names.items()}


_ROBERTA = [
    "bart",
    "bigbird_pegasus",
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "jina_embeddings_v3",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mbart",
    "mpnet",
    "mvp",
    "plbart",
    "roberta",
    "roberta-prelayernorm",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "flaubert",
]
_EOS = ["t5", "mt5", "umt5"]
# Sizes of any config that has them.
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "emb_dim": 32, "embedding_size": 32,
    "word_embed_proj_dim": 32, "d_embed": 32, "hidden_dim": 64, "intermediate_size": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "d_ff": 64, "d_inner": 64, "n_inner": 64, "dff": 64, "ffn_dim": 64,
    "n_ctx": POSITIONS,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2,
    "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "d_kv": 8,
    "d_head": 8, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "n_positions": POSITIONS,
    "max_seq_len": POSITIONS, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "depth": 2, "out_hidden_size": 32, "type_vocab_size": 2, "sliding_window": 16, "initializer_range": 0.1,
}  # fmt: skip
_ROTATION = {"rope_type": "default", "rope_theta": 10_000.0}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "q_lora_rank": 16, "kv_lora_rank": 16, "head_dim": 8,
    "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
}  # fmt: skip
# What a family needs beside these, or instead of them.
_OTHERWISE: dict[str, dict[str, Any]] = {
    **{family: {"head_dim": 8} for family in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3"), _LATENT),
    "canine": {"num_hash_buckets": 64, "local_transformer_stride": 8, "downsampling_rate": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROTATION, "sliding_attention": _ROTATION},
    },
    "convbert": {"head_ratio": 2, "conv_kernel_size": 3},
    "data2vec-text": {"type_vocab_size": 1},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False},
    "electra": {"embedding_size": 16},
    "esmc": {"num_key_value_heads": 4},
    "esm": {"vocab_size": VOCABULARY, "position_embedding_type": "absolute", "token_dropout": False},
    "funnel": {"block_sizes": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 8},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6, "visual_embed": False},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 2},
    "markuplm": {"xpath_unit_hidden_size": 4, "max_depth": 4},
    "perceiver": {
        "num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 1, "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "qwen3_5": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "longformer": {"attention_window": [8, 8]},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mistral4": {**_LATENT, "head_dim": 16},
    "mobilebert": {"true_hidden_size": 16, "intra_bottleneck_size": 16, "embedding_size": 16},
    "reformer": {
        "attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 12], "axial_pos_embds_dim": [16, 16],
        "attention_head_size": 8, "feed_forward_size": 64, "num_buckets": 4, "is_decoder": False,
        "hash_seed": 1,
    },
    "roberta": {"type_vocab_size": 1},
    "squeezebert": {
        "q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1, "intermediate_groups": 1,
        "output_groups": 1,
    },
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "num_hidden_layers": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}  # fmt: skip


def kind_of(family: str, config: Any) -> str:
    """The kind of tokenizer that a family has."""
    if family in _ROBERTA:
        return "bpe"
    if family in _EOS:
        return "eos"
    if family == "xlnet":
        return "xlnet"
    decodes = hasattr(config.get_text_config(), "use_cache") and not hasattr(config, "is_decoder")
    return (
        "plain"
        if decodes or family in ("gpt2", "openai-gpt", "ctrl", "gptj", "opt", "bloom")
        else "wordpiece"
    )


def write_family(
    path: Path, family: str, kind: str = "", *, max_positions: int = POSITIONS, **changes: Any
) -> Path:
    """Write a checkpoint whose logits differ by more than 1 between texts. Returns `path`."""
    path.mkdir(parents=True)
    default = transformers.CONFIG_MAPPING[family]()
    about = write_tokenizer(path, kind or kind_of(family, default), max_positions)
    ids = about.ids()
    config = _config(family, default, ids, changes)
    torch.manual_seed(11)
    try:
        model = getattr(transformers, families()[family])(config).eval()
    except ImportError:  # of a package that this family needs, which a service must name
        config.architectures = [families()[family]]
        config.save_pretrained(path)
        save_file({"weight": torch.zeros(1)}, path / "model.safetensors", metadata={"format": "pt"})
        return path
    _spread(model, ids.get("eos_token_id", 0))
    model.save_pretrained(path)
    return path


def _config(family: str, default: Any, ids: dict[str, int], changes: dict[str, Any]) -> Any:
    own = _OTHERWISE.get(family, {}) | changes
    if getattr(default, "is_encoder_decoder", False):
        own = {"decoder_start_token_id": ids["pad_token_id"], **own}
    sizes, text = _sizes(default, ids), default.get_text_config()
    nested = [key for key, value in vars(default).items() if value is text]
    (sizes[nested[0]] if nested else sizes).update(own)
    labels = {"id2label": LABELS, "label2id": {label: number for number, label in LABELS.items()}}
    return type(default)(**sizes, **labels)


def _sizes(config: Any, ids: dict[str, int]) -> dict[str, Any]:
    """The sizes of a config and of those within it, with the ids if it is one of texts."""
    known = config.to_dict().keys() | config.attribute_map.keys()
    found = {name: size for name, size in _SIZES.items() if name in known and not _is_absent(config, name)}
    if "vocab_size" in known:
        found |= ids
    for key, value in vars(config).items():
        if isinstance(value, transformers.PreTrainedConfig):
            found[key] = _sizes(value, ids)
    return found


def _is_absent(config: Any, name: str) -> bool:
    return name not in config.attribute_map and config.to_dict().get(name) is None


@inference_mode
def _spread(model: Any, last: int) -> None:
    """Weights with which layers differ much for different texts, and logits by about 3.

    Texts end with the id `last`.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            table = "embed" in name and "xpath" not in name
            fan_in = 1 if table else parameter.shape[-1]
            parameter.normal_(0.0, 1.2 / math.sqrt(fan_in))
    heads = [one for one in model.modules() if getattr(one, "out_features", None) == len(LABELS)]
    sizes = (1, 4, 8, 16, 16, 16, 24)
    texts = [[*torch.randint(10, VOCABULARY, (size,)).tolist(), last] for size in sizes]
    with suppress(Exception):  # of models that need more than ids, which are refused
        options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        logits = torch.cat([model(input_ids=torch.tensor([text]), **options).logits for text in texts])
        heads[-1].weight.mul_(3.0 / max((logits.amax(0) - logits.amin(0)).max().item(), 0.01))
