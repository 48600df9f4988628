"""The OpenVINO graph of ModernBERT for packed rows; `engines/modernbert.py` computes the same in torch.

It differs from BERT in every part: norms come first, positions are rotations of queries and keys, the inner
layer is gated, and most layers attend only to tokens nearby.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from openvino import opset13 as op

from model_store.checkpoint import Checkpoint
from model_store.engines.parts import ACTIVATIONS, Node, Parts, number, numbers, same_text
from model_store.errors import ModelUnsupported
from model_store.weights import Safetensors

_EVERY_GLOBAL = 3
_THETA = {
    "full_attention": ("global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_theta", 10_000.0),
}


class ModernBertGraph(Parts):
    """The graph of one checkpoint. D is the width of the model."""

    def __init__(self, checkpoint: Checkpoint, weights: Safetensors) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else."""
        config = checkpoint.config
        heads = int(config.get("num_attention_heads", 12))
        super().__init__(weights, heads=heads, epsilon=float(config.get("norm_eps", 1e-5)))
        self._wide = weights.shape("model.final_norm.weight")[0]
        rows = weights.shape("model.embeddings.tok_embeddings.weight")[0]
        outputs = weights.shape("classifier.bias")[0]
        if self._wide % heads or rows < (checkpoint.vocabulary or 0) or outputs != len(checkpoint.labels):
            raise ModelUnsupported(f"The weights of {checkpoint.path} do not fit its config.")
        self._kinds = layer_kinds(config)
        self._window = int(config.get("local_attention", 128)) // 2
        self._activation = ACTIVATIONS[config.get("hidden_activation", "gelu")]
        self._head_activation = ACTIVATIONS[config.get("classifier_activation", "gelu")]
        self._mean = config.get("classifier_pooling", "cls") == "mean"
        self._rotations = {
            kind: self._rotation(theta(config, kind), checkpoint.max_tokens) for kind in set(self._kinds)
        }

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        """Returns the logits (N, labels)."""
        words = op.gather(self.constant("model.embeddings.tok_embeddings.weight"), ids, number(0))
        hidden = self.norm(words, "model.embeddings.norm")
        same = same_text(segments, segments)
        distance = op.abs(op.subtract(op.unsqueeze(positions, number(2)), op.unsqueeze(positions, number(1))))
        near = op.unsqueeze(op.less_equal(distance, op.constant(np.int32(self._window))), number(1))
        masks = {"full_attention": same, "sliding_attention": op.logical_and(same, near)}
        turns = {
            kind: [
                op.unsqueeze(op.gather(op.constant(table), positions, number(0)), number(1))
                for table in tables
            ]
            for kind, tables in self._rotations.items()
        }
        for at, kind in enumerate(self._kinds):
            layer = f"model.layers.{at}."
            normed = self.norm(hidden, f"{layer}attn_norm") if at else hidden
            hidden = op.add(hidden, self._attention(normed, f"{layer}attn.", masks[kind], turns[kind]))
            hidden = op.add(hidden, self._gated(self.norm(hidden, f"{layer}mlp_norm"), f"{layer}mlp."))
        pooled = self._pool(self.norm(hidden, "model.final_norm"), segments, first)
        dense = self._head_activation(self.linear(pooled, "head.dense"))
        return self.linear(self.norm(dense, "head.norm"), "classifier")

    def _attention(self, hidden: Node, name: str, mask: Node, turn: list[Node]) -> Node:
        parts = op.split(self.linear(hidden, f"{name}Wqkv"), number(2), 3).outputs()
        query, key, value = (self.by_head(part, self._wide) for part in parts)
        query, key = (_rotated(one, *turn) for one in (query, key))
        return self.linear(self.attend(query, key, value, mask), f"{name}Wo")

    def _gated(self, hidden: Node, name: str) -> Node:
        inner, gate = op.split(self.linear(hidden, f"{name}Wi"), number(2), 2).outputs()
        return self.linear(op.multiply(self._activation(inner), gate), f"{name}Wo")

    def _pool(self, hidden: Node, segments: Node, first: Node) -> Node:
        """(R, T, D), (R, T) and indices (N,) to (N, D): first tokens, or the mean of each text."""
        flat = op.reshape(hidden, numbers(-1, self._wide), False)
        if not self._mean:
            return op.gather(flat, first, number(0))
        own = op.reshape(segments, numbers(-1), False)
        chosen = op.unsqueeze(op.gather(own, first, number(0)), number(1))
        member = op.convert(op.equal(chosen, op.unsqueeze(own, number(0))), openvino.Type.f32)
        total = op.reduce_sum(member, number(1), True)
        return op.divide(op.matmul(member, flat, False, False), total)

    def _rotation(self, base: float, most: int) -> tuple[Any, Any]:
        """Cosine and sine by position, each (positions, D / H)."""
        size = self._wide // self._heads
        steps = 1.0 / (np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size)))
        angles = np.arange(most, dtype=np.float32)[:, None] * np.concatenate([steps, steps]).astype(
            np.float32
        )
        return np.cos(angles), np.sin(angles)


def layer_kinds(config: dict[str, Any]) -> list[str]:
    """Whether each layer attends to the whole text (`full_attention`) or nearby (`sliding_attention`)."""
    if kinds := config.get("layer_types"):
        return [str(kind) for kind in kinds]
    every = int(config.get("global_attn_every_n_layers", _EVERY_GLOBAL))
    layers = range(int(config.get("num_hidden_layers", 22)))
    return ["sliding_attention" if at % every else "full_attention" for at in layers]


def theta(config: dict[str, Any], kind: str) -> float:
    """The base of the rotations of a kind of layers."""
    name, default = _THETA[kind]
    known = (config.get("rope_parameters") or {}).get(kind) or {}
    return float(known.get("rope_theta") or config.get(name) or default)


def _rotated(x: Node, cosine: Node, sine: Node) -> Node:
    low, high = op.split(x, number(3), 2).outputs()
    turned = op.concat([op.negative(high), low], 3)
    return op.add(op.multiply(x, cosine), op.multiply(turned, sine))
