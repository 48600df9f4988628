"""The families of encoders that run in packed rows: what each calls its weights, how it differs from BERT.

A family differs in names, sizes and the head, in where positions begin (RoBERTa, XLM-R and MPNet: after the
row of padding, which keeps its row wherever it stands in a text), in a projection after the embeddings
(ELECTRA, ALBERT), in layers that share weights (ALBERT), and in a bias by relative position that is added to
attention (MPNet).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.checkpoint import Checkpoint, unnumbered

# Those of MPNet are the same in every checkpoint.
_BUCKETS, _FARTHEST = 32, 128


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls the parts of a layer, as prefixes of `weight` and `bias`."""

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    inner: str
    outer: str
    output_norm: str


DISTILBERT = Names(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    output_norm="output_layer_norm",
)
BERT = Names(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    output_norm="output.LayerNorm",
)
_MPNET = replace(
    BERT,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
DEBERTA = replace(
    BERT,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
)
_ALBERT = Names(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    output="attention.dense",
    attention_norm="attention.LayerNorm",
    inner="ffn",
    outer="ffn_output",
    output_norm="full_layer_layer_norm",
)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A checkpoint's parts and sizes. `layers` are the prefixes of its layers, in the order of their runs.

    `skipped` rows of the table of positions come before the first one, which is that of padding if it is
    `unnumbered`. `projection` follows the
    embeddings, if there is one; `relative_bias` is a table by bucket and head.
    """

    base: str
    layers: tuple[str, ...]
    names: Names
    heads: int
    activation: str
    epsilon: float
    head: tuple[str, str]
    head_activation: str
    token_types: bool = True
    skipped: int = 0
    projection: str = ""
    relative_bias: str = ""
    unnumbered: bool = False


def describe(architecture: str, config: dict[str, Any]) -> Encoder:
    """The parts of a packable model; sizes that its config leaves out have the defaults of transformers."""
    family = architecture.removesuffix("ForSequenceClassification")
    if family == "DistilBert":
        return _distilbert(config)
    base = "roberta" if family == "XLMRoberta" else family.lower()
    head = (
        (f"{base}.pooler", "classifier")
        if family == "Albert"
        else ("classifier.dense", "classifier.out_proj")
    )
    bert = Encoder(
        base=base,
        layers=tuple(
            f"{base}.encoder.layer.{number}." for number in range(_number(config, "num_hidden_layers", 12))
        ),
        names=BERT,
        heads=_number(config, "num_attention_heads", 12),
        activation=str(config.get("hidden_act", "gelu")),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        head=("bert.pooler.dense", "classifier") if family == "Bert" else head,
        head_activation="tanh",
    )
    if (padding := unnumbered(config)) is not None:
        bert = replace(bert, skipped=padding, unnumbered=True)
    if family == "Electra":
        narrow = _number(config, "embedding_size", 128) != _number(config, "hidden_size", 256)
        projection = "electra.embeddings_project" if narrow else ""
        heads = _number(config, "num_attention_heads", 4)
        return replace(bert, heads=heads, head_activation="gelu", projection=projection)
    if family == "MPNet":
        bias = "mpnet.encoder.relative_attention_bias"
        return replace(bert, names=_MPNET, token_types=False, relative_bias=bias)
    return _albert(config, bert) if family == "Albert" else bert


def _distilbert(config: dict[str, Any]) -> Encoder:
    layers = range(_number(config, "n_layers", 6))
    return Encoder(
        base="distilbert",
        layers=tuple(f"distilbert.transformer.layer.{number}." for number in layers),
        names=DISTILBERT,
        heads=_number(config, "n_heads", 12),
        activation=str(config.get("activation", "gelu")),
        epsilon=1e-12,
        head=("pre_classifier", "classifier"),
        head_activation="relu",
        token_types=False,
    )


def _albert(config: dict[str, Any], bert: Encoder) -> Encoder:
    """Its layers belong to groups that share weights, by default one group of one layer."""
    runs, groups = _number(config, "num_hidden_layers", 12), _number(config, "num_hidden_groups", 1)
    layers = [
        f"albert.encoder.albert_layer_groups.{int(run / (runs / groups))}.albert_layers.{number}."
        for run in range(runs)
        for number in range(_number(config, "inner_group_num", 1))
    ]
    return replace(
        bert,
        layers=tuple(layers),
        names=_ALBERT,
        heads=_number(config, "num_attention_heads", 64),
        activation=str(config.get("hidden_act", "gelu_new")),
        projection="albert.encoder.embedding_hidden_mapping_in",
    )


def _number(config: dict[str, Any], key: str, default: int) -> int:
    return int(config.get(key, default))


def table_rows(about: Encoder, checkpoint: Checkpoint) -> dict[str, int]:
    """The least rows of the tables of a checkpoint."""
    tables = f"{about.base}.embeddings."
    rows = {
        f"{tables}word_embeddings.weight": checkpoint.vocabulary or 0,
        f"{tables}position_embeddings.weight": checkpoint.max_tokens + about.skipped + about.unnumbered,
    }
    return rows | ({f"{about.relative_bias}.weight": _BUCKETS} if about.relative_bias else {})


def relative_buckets(most: int) -> NDArray[np.int64]:
    """MPNet's bucket of each distance from -(most - 1) to most - 1: exact when near, logarithmic when far."""
    distance = np.arange(1 - most, most)
    half = _BUCKETS // 2
    near = half // 2
    size = np.abs(distance)
    with np.errstate(divide="ignore"):
        steps = (
            np.log(size.astype(np.float32) / near) / np.float32(math.log(_FARTHEST / near)) * (half - near)
        )
    far = np.minimum(near + np.where(size < near, 0, steps).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(size < near, size, far)


@dataclass(frozen=True, slots=True)
class Disentangled:
    """DeBERTa's attention by content and relative position. Distances that share a bucket share an embedding.

    The weight of token j for token i is the sum of three products: of their contents, of the content of i
    with their distance (c2p), and of the content of j with it (p2c). The tokens of a text lie side by side,
    so the distance of two of them is that of their places in the row.

    The first `2 * span` rows of the table of relative positions are used. `buckets` is 0 if each distance has
    a separate bucket. `shared` says whether positions have the projections of contents.
    """

    span: int
    buckets: int
    farthest: int
    from_content: bool
    from_position: bool
    shared: bool
    normed: bool

    @property
    def terms(self) -> int:
        """The number of products that add up to a weight."""
        return 1 + self.from_content + self.from_position

    def rows(self, most: int) -> NDArray[np.int64]:
        """The row of the table for each distance i - j from -(most - 1) to most - 1."""
        distance = np.arange(1 - most, most)
        bucket = _log_buckets(distance, self.buckets, self.farthest) if self.buckets else distance
        return np.clip(bucket + self.span, 0, 2 * self.span - 1)


def read_disentangled(config: dict[str, Any]) -> Disentangled:
    """The relative positions of a config of DeBERTa-v2 or v3, with transformers' defaults."""
    kinds = config.get("pos_att_type") or ()
    names = [name.strip() for name in kinds.lower().split("|")] if isinstance(kinds, str) else kinds
    farthest = int(config.get("max_relative_positions", -1))
    if farthest < 1:
        farthest = int(config.get("max_position_embeddings", 512))
    buckets = max(int(config.get("position_buckets", -1)), 0)
    return Disentangled(
        span=buckets or farthest,
        buckets=buckets,
        farthest=farthest,
        from_content="c2p" in names,
        from_position="p2c" in names,
        shared=bool(config.get("share_att_key", False)),
        normed="layer_norm" in str(config.get("norm_rel_ebd", "none")).lower(),
    )


def _log_buckets(distance: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """Distances up to half of `buckets` as they are, and farther ones in logarithmic steps."""
    half = buckets // 2
    size = np.abs(distance)
    steps = np.log(np.maximum(size, half).astype(np.float32) / np.float32(half))
    steps = steps / np.log(np.float32((farthest - 1) / half)) * np.float32(half - 1)
    far = np.ceil(steps).astype(np.int64) + half
    return np.where(size <= half, distance, far * np.sign(distance))
