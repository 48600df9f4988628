"""ModernBERT in torch for packed rows, built from the submodules of transformers' classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb


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
