"""The OpenVINO graph of DeBERTa-v2 and v3 for packed rows; `engines/deberta.py` computes it in torch."""

from __future__ import annotations

import math

import numpy as np
from openvino import opset13 as op

from model_store.checkpoint import Checkpoint
from model_store.engines.disentangled import read_disentangled
from model_store.engines.parts import ACTIVATIONS, NEVER, Node, Parts, number, numbers, same_text
from model_store.errors import ModelUnsupported
from model_store.weights import Safetensors

_WORDS = "deberta.embeddings.word_embeddings.weight"
_POSITIONS = "deberta.embeddings.position_embeddings.weight"
_TYPES = "deberta.embeddings.token_type_embeddings.weight"
_PROJECTION = "deberta.embeddings.embed_proj"
_RELATIVE = "deberta.encoder.rel_embeddings.weight"
_CONVOLUTION = "deberta.encoder.conv"


class DebertaGraph(Parts):
    """The graph of one checkpoint. D is the width of the model."""

    def __init__(self, checkpoint: Checkpoint, weights: Safetensors) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else."""
        self._config = config = checkpoint.config
        heads = int(config.get("num_attention_heads", 24))
        super().__init__(weights, heads=heads, epsilon=float(config.get("layer_norm_eps", 1e-7)))
        self._about = read_disentangled(config)
        self._layers = int(config.get("num_hidden_layers", 24))
        self._wide = weights.shape("pooler.dense.weight")[0]
        self._most = checkpoint.max_tokens
        self._absolute = bool(config.get("position_biased_input", True))
        needed = [(_WORDS, checkpoint.vocabulary or 0), (_RELATIVE, 2 * self._about.span)]
        if self._absolute:
            needed.append((_POSITIONS, self._most))
        fits = all(weights.shape(name)[0] >= rows for name, rows in needed)
        outputs = weights.shape("classifier.bias")[0]
        if self._wide % heads or not fits or outputs != len(checkpoint.labels):
            raise ModelUnsupported(f"The weights of {checkpoint.path} do not fit its config.")
        self._rows = op.constant(self._about.rows(self._most))
        self._scale = op.constant(np.float32(1 / math.sqrt(self._wide // heads * self._about.terms)))
        table = op.constant(weights[_RELATIVE][: 2 * self._about.span])
        self._table = self.norm(table, "deberta.encoder.LayerNorm") if self._about.normed else table

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        """Returns the logits (N, labels)."""
        embedded = hidden = self._embed(ids, positions)
        same = same_text(segments, segments)
        length = op.gather(op.shape_of(ids), number(1), number(0))
        farthest = op.subtract(length, number(1))
        falling = self._places(op.range(farthest, op.negative(length), number(-1), "i64"))
        rising = self._places(op.range(op.negative(farthest), length, number(1), "i64"))
        *lower, last = (f"deberta.encoder.layer.{at}." for at in range(self._layers))
        for at, layer in enumerate(lower):
            query, key, value = self._projected(layer, hidden, hidden)
            bias = op.constant(np.float32(0))
            if self._about.from_content:
                bias = op.add(bias, self._by_place(query, self._positions(layer, "key", falling), length))
            if self._about.from_position:
                turned = self._by_place(key, self._positions(layer, "query", rising), length)
                bias = op.add(bias, op.transpose(turned, numbers(0, 1, 3, 2)))
            mask = op.select(same, bias, op.constant(NEVER))
            hidden = self._finish(layer, self.attend(query, key, value, mask, self._scale), hidden)
            if at == 0 and self._config.get("conv_kernel_size", 0) > 0:
                hidden = self._convolved(embedded, hidden, positions, segments)
        hidden = self._of_first(last, hidden, positions, segments, first)
        activation = ACTIVATIONS[self._config.get("pooler_hidden_act", "gelu")]
        return self.linear(activation(self.linear(hidden, "pooler.dense")), "classifier")

    def _embed(self, ids: Node, positions: Node) -> Node:
        hidden = op.gather(self.constant(_WORDS), ids, number(0))
        if self._absolute:
            hidden = op.add(hidden, op.gather(self.constant(_POSITIONS), positions, number(0)))
        if _TYPES in self._weights:
            hidden = op.add(hidden, op.constant(self._weights[_TYPES][0]))
        if f"{_PROJECTION}.weight" in self._weights:
            hidden = self.linear(hidden, _PROJECTION)
        return self.norm(hidden, "deberta.embeddings.LayerNorm")

    def _of_first(self, layer: str, hidden: Node, positions: Node, segments: Node, first: Node) -> Node:
        """(R, T, D), twice (R, T), and indices (N,) of R * T to (N, D), for first tokens only.

        A token is as far from the first one of its text as its position says, so each key has one place.
        """
        places = self._places(op.negative(op.convert(op.reshape(positions, numbers(-1), False), "i64")))
        own = op.reshape(segments, numbers(1, -1), False)
        everything = op.reshape(hidden, numbers(1, -1, self._wide), False)
        chosen = op.gather(everything, first, number(1))
        query, key, value = self._projected(layer, chosen, everything)
        bias = op.constant(np.float32(0))
        if self._about.from_position:
            of_key = op.multiply(key, self._positions(layer, "query", places))
            bias = op.multiply(op.unsqueeze(op.reduce_sum(of_key, number(3)), number(2)), self._scale)
        if self._about.from_content:
            key = op.add(key, self._positions(layer, "key", places))
        mask = op.select(same_text(op.gather(own, first, number(1)), own), bias, op.constant(NEVER))
        context = self.attend(query, key, value, mask, self._scale)
        return op.squeeze(self._finish(layer, context, chosen), number(0))

    def _places(self, distances: Node) -> Node:
        """The row of the table for each distance. A text has none beyond the model's limit."""
        near = op.clamp(distances, 1 - self._most, self._most - 1)
        return op.gather(self._rows, op.add(near, number(self._most - 1)), number(0))

    def _positions(self, layer: str, kind: str, places: Node) -> Node:
        """The projected relative positions of `places`, (P,), as keys or queries: (1, H, P, D / H)."""
        name = f"{kind}_proj" if self._about.shared else f"pos_{kind}_proj"
        table = self.linear(self._table, f"{layer}attention.self.{name}")
        return self.by_head(op.unsqueeze(op.gather(table, places, number(0)), number(0)), self._wide)

    def _by_place(self, content: Node, places: Node, length: Node) -> Node:
        """Scaled products of token i, of (R, H, T, D / H), with the position for i - j: (R, H, T, T).

        Row i of all products has that for i - j at T - 1 - i + j, one column earlier than row i - 1. A
        reshape to rows that are one shorter moves each to its place.
        """
        products = op.matmul(content, op.multiply(places, self._scale), False, True)
        wide = op.subtract(op.multiply(length, number(2)), number(2))
        flat = op.reshape(products, numbers(0, 0, -1), True)
        begin = op.subtract(length, number(1))
        flat = _between(flat, begin, op.add(begin, op.multiply(length, wide)), axis=2)
        shape = op.concat([numbers(0, 0), op.unsqueeze(length, number(0)), op.unsqueeze(wide, number(0))], 0)
        return _between(op.reshape(flat, shape, True), number(0), length, axis=3)

    def _projected(self, layer: str, queries: Node, keys: Node) -> list[Node]:
        pairs = (("query", queries), ("key", keys), ("value", keys))
        return [
            self.by_head(self.linear(hidden, f"{layer}attention.self.{name}_proj"), self._wide)
            for name, hidden in pairs
        ]

    def _finish(self, layer: str, context: Node, hidden: Node) -> Node:
        output = f"{layer}attention.output."
        hidden = self.norm(op.add(self.linear(context, f"{output}dense"), hidden), f"{output}LayerNorm")
        activation = ACTIVATIONS[self._config.get("hidden_act", "gelu")]
        inner = activation(self.linear(hidden, f"{layer}intermediate.dense"))
        outer = self.linear(inner, f"{layer}output.dense")
        return self.norm(op.add(outer, hidden), f"{layer}output.LayerNorm")

    def _convolved(self, embedded: Node, hidden: Node, positions: Node, segments: Node) -> Node:
        """The convolution after the first layer of some models, which reads tokens of the same text only."""
        weight = self._weights[f"{_CONVOLUTION}.conv.weight"]
        middle = weight.shape[2] // 2
        length = op.gather(op.shape_of(positions), number(1), number(0))
        total = self.constant(f"{_CONVOLUTION}.conv.bias")
        padded = op.pad(embedded, numbers(0, middle, 0), numbers(0, middle, 0), "constant", np.float32(0))
        others = [
            op.pad(
                one, numbers(0, middle), numbers(0, middle), "constant", op.constant(np.int32(-self._most))
            )
            for one in (positions, segments)
        ]
        for at in range(weight.shape[2]):
            end = op.add(length, number(at))
            moved, place, own = (_between(one, number(at), end, axis=1) for one in (padded, *others))
            wanted = op.add(positions, op.constant(np.int32(at - middle)))
            near = op.logical_and(op.equal(own, segments), op.equal(place, wanted))
            kept = op.multiply(moved, op.unsqueeze(op.convert(near, "f32"), number(2)))
            part = op.constant(np.ascontiguousarray(weight[:, :, at]))
            total = op.add(total, op.matmul(kept, part, False, True))
        activation = ACTIVATIONS[self._config.get("conv_act", "tanh")]
        return self.norm(op.add(hidden, activation(total)), f"{_CONVOLUTION}.LayerNorm")


def _between(x: Node, begin: Node, end: Node, *, axis: int) -> Node:
    """The part of one axis from `begin` to before `end`, which are scalars."""
    one = op.unsqueeze(begin, number(0)), op.unsqueeze(end, number(0))
    return op.slice(x, *one, numbers(1), numbers(axis))
