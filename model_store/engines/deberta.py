"""DeBERTa-v2 and v3 in torch for packed rows, built from the submodules of transformers' classifier."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.activations import get_activation

from model_store.engines.disentangled import Disentangled, read_disentangled


class PackedDeberta(nn.Module):
    """Maps token ids, positions and segments of R rows, and N first tokens, to logits (N, labels)."""

    rows: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder, about = model.deberta.encoder, read_disentangled(model.config.to_dict())
        self.embeddings = _Embeddings(model.deberta.embeddings)
        self.most = int(model.config.max_position_embeddings)
        self.register_buffer("rows", torch.from_numpy(about.rows(self.most)))
        with torch.no_grad():
            table = encoder.get_rel_embedding()[: 2 * about.span]
            self.layers = nn.ModuleList(_Layer(layer, about, table) for layer in encoder.layer)
        self.convolution = _Convolution(encoder.conv) if encoder.conv is not None else None
        self.pooler, self.classifier = model.pooler, model.classifier

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """`ids`, `positions`, `segments`: (R, T) integers; `first`: (N,) indices into R * T."""
        embedded = hidden = self.embeddings(ids, positions)
        same = (segments.unsqueeze(2) == segments.unsqueeze(1)).unsqueeze(1)
        length = ids.shape[1]
        places = self._relative(torch.arange(length - 1, -length, -1, device=ids.device))
        *lower, last = self.layers
        assert isinstance(last, _Layer)
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


class _Layer(nn.Module):
    """A layer. Its tables `key` and `query`, (2 * span, D), hold the projected relative positions."""

    def __init__(self, layer: Any, about: Disentangled, table: Tensor) -> None:
        super().__init__()
        self.attention, self.attention_output = layer.attention.self, layer.attention.output
        self.inner, self.outer = layer.intermediate, layer.output
        self.heads = self.attention.num_attention_heads
        self.scale = 1 / math.sqrt(self.attention.attention_head_size * about.terms)
        of_key, of_query = ("key_proj", "query_proj") if about.shared else ("pos_key_proj", "pos_query_proj")
        self.key: nn.Parameter | None = None
        self.query: nn.Parameter | None = None
        if about.from_content:
            self.key = nn.Parameter(getattr(self.attention, of_key)(table))
        if about.from_position:
            self.query = nn.Parameter(getattr(self.attention, of_query)(table))

    def forward(self, hidden: Tensor, same: Tensor, places: Tensor) -> Tensor:
        """(R, T, D), a mask (R, 1, T, T), true where attention is allowed, and (2 T - 1,) to (R, T, D).

        `places` are the rows of the tables for the distances from T - 1 to 1 - T.
        """
        query, key, value = self._projected(hidden, hidden)
        bias = torch.zeros_like(same, dtype=query.dtype)
        if self.key is not None:
            bias = bias + self._by_place(query, self.key[places])
        if self.query is not None:
            bias = bias + self._by_place(key, self.query[places.flip(0)]).transpose(2, 3)
        return self._finish(query, key, value, bias.masked_fill(~same, -torch.inf), hidden)

    def of_first(self, hidden: Tensor, first: Tensor, same: Tensor, places: Tensor) -> Tensor:
        """(1, R * T, D), indices (N,), a mask (1, 1, N, R * T) and (R * T,) to (1, N, D): first tokens only.

        A token is as far from the first one of its text as its position says, so each key has one place.
        """
        chosen = hidden[:, first]
        query, key, value = self._projected(chosen, hidden)
        bias = torch.zeros_like(same, dtype=query.dtype)
        if self.query is not None:
            of_key = (key * self._by_head(self.query[places].unsqueeze(0))).sum(dim=3)
            bias = bias + of_key.unsqueeze(2) * self.scale
        if self.key is not None:
            key = key + self._by_head(self.key[places].unsqueeze(0))
        return self._finish(query, key, value, bias.masked_fill(~same, -torch.inf), chosen)

    def _by_place(self, content: Tensor, rows: Tensor) -> Tensor:
        """Scaled products of token i, of (R, H, T, D / H), with the row for i - j: (R, H, T, T).

        Row i of all products has that for i - j at T - 1 - i + j: one column earlier than row i - 1.
        """
        products = content @ (self._by_head(rows.unsqueeze(0)) * self.scale).transpose(2, 3)
        batch, heads, length, wide = products.shape
        strides = (heads * length * wide, length * wide, wide - 1, 1)
        return products.contiguous().as_strided((batch, heads, length, length), strides, length - 1)

    def _projected(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.attention
        projected = parts.query_proj(queries), parts.key_proj(keys), parts.value_proj(keys)
        query, key, value = map(self._by_head, projected)
        return query, key, value

    def _by_head(self, hidden: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        return hidden.view(rows, length, self.heads, -1).transpose(1, 2)

    def _finish(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        context = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        hidden = self.attention_output(context.transpose(1, 2).flatten(2), hidden)
        output: Tensor = self.outer(self.inner(hidden), hidden)
        return output


class _Embeddings(nn.Module):
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
