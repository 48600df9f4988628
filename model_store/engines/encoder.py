"""BERT-like encoders in torch, for packed rows. Exact, but they skip what no label depends on.

A token attends only to tokens with the same segment number, so texts can lie end to end in one row, and one
module handles packed and padded rows. The classification head reads only the first token of each text, so the
last layer computes keys and values for all tokens, and everything else for the first tokens only.

They are built from the submodules of transformers' classifiers, whose layers compute the same functions under
different names: `engines/families.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import get_activation

from model_store.engines.deberta import PackedDeberta
from model_store.engines.families import describe, relative_buckets
from model_store.engines.modernbert import PackedModernBert


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, parts: dict[str, nn.Module], *, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.query, self.key, self.value = parts["query"], parts["key"], parts["value"]
        self.output, self.attention_norm = parts["output"], parts["attention_norm"]
        self.inner, self.outer, self.output_norm = parts["inner"], parts["outer"], parts["output_norm"]
        self.heads, self.activation = heads, activation

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(R, T, D) and a mask (R, 1 or H, T, T), true where attention is allowed or added, to (R, T, D)."""
        return self._finish(self._attend(hidden, hidden, mask), hidden)

    def of_first(self, hidden: Tensor, first: Tensor, mask: Tensor) -> Tensor:
        """(1, R * T, D), indices (N,) and a mask (1, 1 or H, N, R * T) to (1, N, D): first tokens only."""
        chosen = hidden[:, first]
        return self._finish(self._attend(chosen, hidden, mask), chosen)

    def _attend(self, query_hidden: Tensor, key_hidden: Tensor, mask: Tensor) -> Tensor:
        query = self._by_head(self.query(query_hidden))
        key, value = self._by_head(self.key(key_hidden)), self._by_head(self.value(key_hidden))
        context = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).flatten(2)

    def _by_head(self, hidden: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        return hidden.view(rows, length, self.heads, -1).transpose(1, 2)

    def _finish(self, context: Tensor, hidden: Tensor) -> Tensor:
        hidden = self.attention_norm(self.output(context) + hidden)
        normed: Tensor = self.output_norm(self.outer(self.activation(self.inner(hidden))) + hidden)
        return normed


class RelativeBias(nn.Module):
    """MPNet's bias of each head by the distance of two tokens, in texts of up to `most`."""

    def __init__(self, table: Tensor, most: int) -> None:
        """`table` has shape (buckets, heads)."""
        super().__init__()
        by_distance = table[torch.from_numpy(relative_buckets(most))]
        buckets, heads = by_distance.shape
        self.by_distance = nn.Embedding(buckets, heads, _weight=by_distance)
        self.most = most

    def forward(self, places: Tensor, others: Tensor) -> Tensor:
        """Places in a row (Q,) and (K,) to (1, H, Q, K)."""
        distance = (others.unsqueeze(0) - places.unsqueeze(1)).clamp(1 - self.most, self.most - 1)
        bias: Tensor = self.by_distance(distance + self.most - 1)
        return bias.permute(2, 0, 1).unsqueeze(0)


class PackedEncoder(nn.Module):
    """Maps token ids, positions and segments of R rows, and N first tokens, to logits (N, labels)."""

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Iterable[Layer],
        head: nn.Module,
        bias: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.head, self.bias = embeddings, head, bias
        self.layers = nn.ModuleList(layers)

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """`ids`, `positions`, `segments`: (R, T) integers; `first`: (N,) indices into R * T."""
        hidden = self.embeddings(ids, positions)
        *lower, last = self.layers
        assert isinstance(last, Layer)
        if lower:
            places = torch.arange(segments.shape[1], device=segments.device)
            mask = self._mask(segments, places, segments, places)
        for layer in lower:
            hidden = layer(hidden, mask)
        segments = segments.flatten().unsqueeze(0)
        places = torch.arange(segments.shape[1], device=segments.device)
        mask = self._mask(segments[:, first], places[first], segments, places)
        hidden = last.of_first(hidden.flatten(0, 1).unsqueeze(0), first, mask)
        logits: Tensor = self.head(hidden[0])
        return logits

    def _mask(self, segments: Tensor, places: Tensor, other_segments: Tensor, other_places: Tensor) -> Tensor:
        """(R, Q), (Q,), (R, K) and (K,) to (R, 1, Q, K), true if allowed, or to (R, H, Q, K), to be added."""
        same = (segments.unsqueeze(2) == other_segments.unsqueeze(1)).unsqueeze(1)
        if self.bias is None:
            return same
        bias: Tensor = self.bias(places, other_places)
        return torch.where(same, bias, -torch.inf)


class Embeddings(nn.Module):
    """The sum of the embeddings of words and positions, normed, and projected to the width of the layers."""

    def __init__(self, parts: Any, positions: Tensor, projection: nn.Module | None = None) -> None:
        """`parts` are those of transformers, and `positions` the table from the first position on."""
        super().__init__()
        self.words, self.norm = parts.word_embeddings, parts.LayerNorm
        most, wide = positions.shape
        self.positions = nn.Embedding(most, wide, _weight=positions.detach())
        self.projection = projection or nn.Identity()

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Twice (R, T) to (R, T, D)."""
        hidden: Tensor = self.projection(self.norm(self.words(ids) + self.positions(positions)))
        return hidden


class _Head(nn.Module):
    """Two dense layers, called pooler and classifier or otherwise, with an activation between them."""

    def __init__(self, dense: nn.Module, activation: Callable[[Tensor], Tensor], out: nn.Module) -> None:
        super().__init__()
        self.dense, self.activation, self.out = dense, activation, out

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(self.activation(self.dense(hidden)))
        return logits


def packed_encoder(model: Any) -> nn.Module:
    """Computes the same function as `model`, a packable transformers classifier, on packed rows."""
    if model.config.model_type == "deberta-v2":
        return PackedDeberta(model).eval()
    if model.config.model_type == "modernbert":
        return PackedModernBert(model).eval()
    about = describe(type(model).__name__, model.config.to_dict())
    base = model.get_submodule(about.base)
    names = {field.name: getattr(about.names, field.name) for field in fields(about.names)}
    activation = get_activation(about.activation)
    layers = []
    for prefix in about.layers:
        layer = model.get_submodule(prefix.rstrip("."))
        parts = {name: layer.get_submodule(path) for name, path in names.items()}
        layers.append(Layer(parts, heads=about.heads, activation=activation))
    dense, out = map(model.get_submodule, about.head)
    embeddings = base.embeddings
    positions = embeddings.position_embeddings.weight
    table = positions[about.skipped :]
    if about.token_types:
        table = table + embeddings.token_type_embeddings.weight[0]
    projection = model.get_submodule(about.projection) if about.projection else None
    bias = None
    if about.relative_bias:
        bias = RelativeBias(model.get_submodule(about.relative_bias).weight.detach(), len(positions))
    head = _Head(dense, get_activation(about.head_activation), out)
    return PackedEncoder(Embeddings(embeddings, table, projection), layers, head, bias).eval()
