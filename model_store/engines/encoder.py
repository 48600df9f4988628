"""BERT-like encoders in torch, for packed rows. Exact, but they skip what no label depends on.

A token attends only to tokens with the same segment number, so texts can lie end to end in one row, and one
module handles packed and padded rows. The classification head reads only the first token of each text, so the
last layer computes keys and values for all tokens, and everything else for the first tokens only.

They are built from the submodules of transformers' DistilBERT, BERT and RoBERTa classifiers, whose layers
compute the same functions under different names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, parts: dict[str, nn.Module], *, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.query, self.key, self.value = parts["query"], parts["key"], parts["value"]
        self.output, self.attention_norm = parts["output"], parts["attention_norm"]
        self.inner, self.outer, self.output_norm = parts["inner"], parts["outer"], parts["output_norm"]
        self.heads, self.activation = heads, activation

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(R, T, D) and a mask (R, 1, T, T), true where attention is allowed, to (R, T, D)."""
        return self._finish(self._attend(hidden, hidden, mask), hidden)

    def of_first(self, hidden: Tensor, first: Tensor, mask: Tensor) -> Tensor:
        """(1, R * T, D), indices (N,) and a mask (N, R * T) to (1, N, D), for first tokens only."""
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


class PackedEncoder(nn.Module):
    """Maps token ids, positions and segments of R rows, and N first tokens, to logits (N, labels)."""

    def __init__(
        self,
        words: nn.Embedding,
        positions: Tensor,
        norm: nn.Module,
        layers: Iterable[Layer],
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.words = words
        self.positions = nn.Embedding(positions.shape[0], positions.shape[1], _weight=positions)
        self.norm = norm
        self.layers = nn.ModuleList(layers)
        self.head = head

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """`ids`, `positions`, `segments`: (R, T) integers; `first`: (N,) indices into R * T."""
        hidden = self.norm(self.words(ids) + self.positions(positions))
        mask = (segments.unsqueeze(2) == segments.unsqueeze(1)).unsqueeze(1)
        *lower, last = self.layers
        assert isinstance(last, Layer)
        for layer in lower:
            hidden = layer(hidden, mask)
        flat = segments.flatten()
        mask = flat[first].unsqueeze(1) == flat.unsqueeze(0)
        hidden = last.of_first(hidden.flatten(0, 1).unsqueeze(0), first, mask)
        logits: Tensor = self.head(hidden[0])
        return logits


class _DistilBertHead(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.dense, self.out = model.pre_classifier, model.classifier

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(relu(self.dense(hidden)))
        return logits


class _TanhHead(nn.Module):
    """BERT's pooler and classifier, or RoBERTa's classification head, which compute the same function."""

    def __init__(self, dense: nn.Module, out: nn.Module) -> None:
        super().__init__()
        self.dense, self.out = dense, out

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.dense(hidden)))
        return logits


def packed_encoder(model: Any) -> PackedEncoder:
    """Computes the same function as `model`, a packable transformers classifier, on packed rows."""
    if hasattr(model, "distilbert"):
        return _of_distilbert(model)
    if hasattr(model, "roberta"):
        head = _TanhHead(model.classifier.dense, model.classifier.out_proj)
        return _of_bert(model.roberta, head, skipped=int(model.config.pad_token_id) + 1)
    return _of_bert(model.bert, _TanhHead(model.bert.pooler.dense, model.classifier), skipped=0)


def _of_distilbert(model: Any) -> PackedEncoder:
    base = model.distilbert
    layers = [
        Layer(
            {
                "query": layer.attention.q_lin,
                "key": layer.attention.k_lin,
                "value": layer.attention.v_lin,
                "output": layer.attention.out_lin,
                "attention_norm": layer.sa_layer_norm,
                "inner": layer.ffn.lin1,
                "outer": layer.ffn.lin2,
                "output_norm": layer.output_layer_norm,
            },
            heads=model.config.n_heads,
            activation=layer.ffn.activation,
        )
        for layer in base.transformer.layer
    ]
    parts = base.embeddings
    positions = parts.position_embeddings.weight.detach()
    return PackedEncoder(
        parts.word_embeddings, positions, parts.LayerNorm, layers, _DistilBertHead(model)
    ).eval()


def _of_bert(base: Any, head: nn.Module, *, skipped: int) -> PackedEncoder:
    """Adds the embedding of token type 0 to the positions; RoBERTa's positions start after `skipped` rows."""
    layers = [
        Layer(
            {
                "query": layer.attention.self.query,
                "key": layer.attention.self.key,
                "value": layer.attention.self.value,
                "output": layer.attention.output.dense,
                "attention_norm": layer.attention.output.LayerNorm,
                "inner": layer.intermediate.dense,
                "outer": layer.output.dense,
                "output_norm": layer.output.LayerNorm,
            },
            heads=base.config.num_attention_heads,
            activation=layer.intermediate.intermediate_act_fn,
        )
        for layer in base.encoder.layer
    ]
    parts = base.embeddings
    positions = parts.position_embeddings.weight[skipped:] + parts.token_type_embeddings.weight[0]
    return PackedEncoder(parts.word_embeddings, positions.detach(), parts.LayerNorm, layers, head).eval()
