"""BERT-like encoders in torch, for packed rows. Exact, but they skip what no label depends on.

A token attends only to tokens with the same segment number, so texts can lie end to end in one row, and one
module handles packed and padded rows. The classification head reads only the first token of each text, so the
last layer computes keys and values for all tokens, and everything else for the first tokens only.

They are built from the submodules of transformers' classifiers, whose layers compute the same functions under
different names: `engines/families.py` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.activations import get_activation
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from model_store.engines import families


class _Attending(nn.Module):
    """The parts of a post-norm transformer layer, under the names of `Names`."""

    scale: float | None = None

    def __init__(self, layer: nn.Module, names: families.Names, *, heads: int, activation: nn.Module) -> None:
        super().__init__()
        for name, path in asdict(names).items():
            self.add_module(name, layer.get_submodule(path))
        self.heads, self.activation = heads, activation

    def _projected(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.query(queries), self.key(keys), self.value(keys)
        query, key, value = map(self._by_head, projected)
        return query, key, value

    def _by_head(self, hidden: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        return hidden.view(rows, length, self.heads, -1).transpose(1, 2)

    def _finish(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        context = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        hidden = self.attention_norm(self.output(context.transpose(1, 2).flatten(2)) + hidden)
        normed: Tensor = self.output_norm(self.outer(self.activation(self.inner(hidden))) + hidden)
        return normed


class Layer(_Attending):
    """One layer of a BERT-like encoder."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(R, T, D) and a mask (R, 1 or H, T, T), true where attention is allowed or added, to (R, T, D)."""
        return self._finish(*self._projected(hidden, hidden), mask, hidden)

    def of_first(self, hidden: Tensor, first: Tensor, mask: Tensor) -> Tensor:
        """(1, R * T, D), indices (N,) and a mask (1, 1 or H, N, R * T) to (1, N, D): first tokens only."""
        chosen = hidden[:, first]
        return self._finish(*self._projected(chosen, hidden), mask, chosen)


class RelativeBias(nn.Module):
    """MPNet's bias of each head by the distance of two tokens, in texts of up to `most`."""

    def __init__(self, table: Tensor, most: int) -> None:
        """`table` has shape (buckets, heads)."""
        super().__init__()
        by_distance = table[torch.from_numpy(families.relative_buckets(most))]
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


class PackedDeberta(nn.Module):
    """Maps token ids, positions and segments of R rows, and N first tokens, to logits (N, labels)."""

    rows: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder, about = model.deberta.encoder, families.read_disentangled(model.config.to_dict())
        self.embeddings = _DebertaEmbeddings(model.deberta.embeddings)
        self.most = int(model.config.max_position_embeddings)
        self.register_buffer("rows", torch.from_numpy(about.rows(self.most)))
        with torch.no_grad():
            table = encoder.get_rel_embedding()[: 2 * about.span]
            self.layers = nn.ModuleList(_DebertaLayer(layer, about, table) for layer in encoder.layer)
        self.convolution = _Convolution(encoder.conv) if encoder.conv is not None else None
        self.pooler, self.classifier = model.pooler, model.classifier

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """`ids`, `positions`, `segments`: (R, T) integers; `first`: (N,) indices into R * T."""
        embedded = hidden = self.embeddings(ids, positions)
        same = (segments.unsqueeze(2) == segments.unsqueeze(1)).unsqueeze(1)
        length = ids.shape[1]
        places = self._relative(torch.arange(length - 1, -length, -1, device=ids.device))
        *lower, last = self.layers
        assert isinstance(last, _DebertaLayer)
        for number, layer in enumerate(lower):
            hidden = layer(hidden, same, places)
            if number == 0 and self.convolution is not None:
                hidden = self.convolution(embedded, hidden, positions, segments)
        own = segments.flatten().unsqueeze(0)
        same = (own[:, first].unsqueeze(2) == own.unsqueeze(1)).unsqueeze(1)
        places = self._relative(-positions.flatten())
        hidden = last.of_first(hidden.flatten(0, 1).unsqueeze(0), first, same, places)
        logits: Tensor = self.classifier(self.pooler(hidden.transpose(0, 1)))
        return logits

    def _relative(self, distances: Tensor) -> Tensor:
        """The row of the table for each distance. A text has none beyond the model's limit."""
        return self.rows[distances.clamp(1 - self.most, self.most - 1) + self.most - 1]


class _DebertaLayer(_Attending):
    """A layer. Its tables `keys` and `queries`, (2 * span, D), hold the projected relative positions."""

    def __init__(self, layer: Any, about: families.Disentangled, table: Tensor) -> None:
        attention, activation = layer.attention.self, layer.intermediate.intermediate_act_fn
        super().__init__(layer, families.DEBERTA, heads=attention.num_attention_heads, activation=activation)
        self.scale = 1 / math.sqrt(attention.attention_head_size * about.terms)
        of_key, of_query = ("key_proj", "query_proj") if about.shared else ("pos_key_proj", "pos_query_proj")
        self.keys: nn.Parameter | None = None
        self.queries: nn.Parameter | None = None
        if about.from_content:
            self.keys = nn.Parameter(getattr(attention, of_key)(table))
        if about.from_position:
            self.queries = nn.Parameter(getattr(attention, of_query)(table))

    def forward(self, hidden: Tensor, same: Tensor, places: Tensor) -> Tensor:
        """(R, T, D), a mask (R, 1, T, T), true where attention is allowed, and (2 T - 1,) to (R, T, D).

        `places` are the rows of the tables for the distances from T - 1 to 1 - T.
        """
        query, key, value = self._projected(hidden, hidden)
        bias = torch.zeros_like(same, dtype=query.dtype)
        if self.keys is not None:
            bias = bias + self._by_place(query, self.keys[places])
        if self.queries is not None:
            bias = bias + self._by_place(key, self.queries[places.flip(0)]).transpose(2, 3)
        return self._finish(query, key, value, bias.masked_fill(~same, -torch.inf), hidden)

    def of_first(self, hidden: Tensor, first: Tensor, same: Tensor, places: Tensor) -> Tensor:
        """(1, R * T, D), indices (N,), a mask (1, 1, N, R * T) and (R * T,) to (1, N, D): first tokens only.

        A token is as far from the first one of its text as its position says, so each key has one place.
        """
        chosen = hidden[:, first]
        query, key, value = self._projected(chosen, hidden)
        bias = torch.zeros_like(same, dtype=query.dtype)
        if self.queries is not None:
            of_key = (key * self._by_head(self.queries[places].unsqueeze(0))).sum(dim=3)
            bias = bias + of_key.unsqueeze(2) * self.scale
        if self.keys is not None:
            key = key + self._by_head(self.keys[places].unsqueeze(0))
        return self._finish(query, key, value, bias.masked_fill(~same, -torch.inf), chosen)

    def _by_place(self, content: Tensor, rows: Tensor) -> Tensor:
        """Scaled products of token i, of (R, H, T, D / H), with the row for i - j: (R, H, T, T).

        Row i of all products has that for i - j at T - 1 - i + j: one column earlier than row i - 1.
        """
        products = content @ (self._by_head(rows.unsqueeze(0)) * self.scale).transpose(2, 3)
        batch, heads, length, wide = products.shape
        strides = (heads * length * wide, length * wide, wide - 1, 1)
        return products.contiguous().as_strided((batch, heads, length, length), strides, length - 1)


class _DebertaEmbeddings(nn.Module):
    """Embeddings of words, and of positions in their text if the model has them."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.words, self.norm = parts.word_embeddings, parts.LayerNorm
        self.positions = parts.position_embeddings if parts.position_biased_input else None
        self.types, self.projection = parts.token_type_embeddings, parts.embed_proj

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Twice (R, T) to (R, T, D)."""
        hidden: Tensor = self.words(ids)
        if self.positions is not None:
            hidden = hidden + self.positions(positions)
        if self.types is not None:
            hidden = hidden + self.types.weight[0]
        hidden = self.norm(hidden if self.projection is None else self.projection(hidden))
        return hidden


class _Convolution(nn.Module):
    """The convolution after the first layer of some models, which reads tokens of the same text only."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.convolution, self.norm = parts.conv, parts.LayerNorm
        self.activation = get_activation(parts.conv_act)

    def forward(self, embedded: Tensor, hidden: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Twice (R, T, D), and twice (R, T), to (R, T, D)."""
        weight = self.convolution.weight
        middle = weight.shape[2] // 2
        total = self.convolution.bias.expand_as(embedded)
        for at in range(weight.shape[2]):
            # What comes around from the other end of a row has another position.
            moved, own, place = (
                torch.roll(one, middle - at, dims=1) for one in (embedded, segments, positions)
            )
            near = (own == segments) & (place == positions + at - middle)
            total = total + linear(moved * near.unsqueeze(2), weight[:, :, at])
        normed: Tensor = self.norm(hidden + self.activation(total))
        return normed


class PackedModernBert(nn.Module):
    """Maps token ids, positions and segments of R rows, and N first tokens, to logits (N, labels)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base, self.head, self.classifier = model.model, model.head, model.classifier
        self.window = int(model.config.sliding_window)
        self.mean = model.config.classifier_pooling == "mean"

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """`ids`, `positions`, `segments`: (R, T) integers; `first`: (N,) indices into R * T."""
        hidden = self.base.embeddings(ids)
        same = (segments.unsqueeze(2) == segments.unsqueeze(1)).unsqueeze(1)
        distance = (positions.unsqueeze(2) - positions.unsqueeze(1)).abs().unsqueeze(1)
        masks = {"full_attention": same, "sliding_attention": same & (distance <= self.window)}
        turns = {kind: self.base.rotary_emb(hidden, positions, kind) for kind in masks}
        for layer in self.base.layers:
            kind = layer.attention_type
            hidden = hidden + _attention(layer.attn, layer.attn_norm(hidden), masks[kind], turns[kind])
            hidden = hidden + layer.mlp(layer.mlp_norm(hidden))
        pooled = self._pool(self.base.final_norm(hidden), segments, first)
        logits: Tensor = self.classifier(self.head(pooled))
        return logits

    def _pool(self, hidden: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """(R, T, D), (R, T) and indices (N,) to (N, D): first tokens, or the mean of each text."""
        flat = hidden.flatten(0, 1)
        if not self.mean:
            return flat[first]
        own = segments.flatten()
        member = (own[first].unsqueeze(1) == own.unsqueeze(0)).float()
        return (member @ flat.float() / member.sum(dim=1, keepdim=True)).to(flat.dtype)


def _attention(parts: Any, hidden: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    rows, length, _ = hidden.shape
    qkv = parts.Wqkv(hidden).view(rows, length, 3, -1, parts.head_dim)
    query, key, value = (one.transpose(1, 2) for one in qkv.unbind(dim=2))
    query, key = apply_rotary_pos_emb(query, key, *turn)
    context = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    output: Tensor = parts.Wo(context.transpose(1, 2).flatten(2))
    return output


def packed_encoder(model: Any) -> nn.Module:
    """Computes the same function as `model`, a packable transformers classifier, on packed rows."""
    if model.config.model_type == "deberta-v2":
        return PackedDeberta(model).eval()
    if model.config.model_type == "modernbert":
        return PackedModernBert(model).eval()
    about = families.describe(type(model).__name__, model.config.to_dict())
    base = model.get_submodule(about.base)
    activation = get_activation(about.activation)
    runs = (model.get_submodule(prefix.rstrip(".")) for prefix in about.layers)
    layers = [Layer(run, about.names, heads=about.heads, activation=activation) for run in runs]
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
    head = nn.Sequential(dense, get_activation(about.head_activation), out)
    return PackedEncoder(Embeddings(embeddings, table, projection), layers, head, bias).eval()
