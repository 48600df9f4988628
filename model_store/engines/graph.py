"""Builds the OpenVINO graph of a BERT-like classifier from its weights, without torch.

The graph computes what `engines/encoder.py` computes in torch: packed rows in which a token attends only to
tokens with the same segment number, and a last layer of first tokens only.
"""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13 as op

from model_store.checkpoint import Checkpoint
from model_store.engines.deberta_graph import DebertaGraph
from model_store.engines.families import Encoder, check_sizes, describe, relative_buckets, width
from model_store.engines.modernbert_graph import ModernBertGraph
from model_store.engines.parts import ACTIVATIONS, NEVER, Node, Parts, inputs, number, numbers, same_text
from model_store.errors import ModelUnsupported
from model_store.weights import Safetensors


def packed_graph(checkpoint: Checkpoint, weights: Safetensors) -> openvino.Model:
    """The graph of a packable checkpoint in f32: ids, positions, segments (R, T) and first (N,) to logits.

    Raises ModelUnsupported if weights are missing, or if there is not one output for each label.
    """
    try:
        graph: ModernBertGraph | DebertaGraph | _Graph
        if checkpoint.model_type == "modernbert":
            graph = ModernBertGraph(checkpoint, weights)
        elif checkpoint.model_type == "deberta-v2":
            graph = DebertaGraph(checkpoint, weights)
        else:
            about = describe(checkpoint.architecture, checkpoint.config)
            check_sizes(checkpoint, about, weights)
            graph = _Graph(about, weights)
        ends = inputs()
        return openvino.Model([graph.build(*ends)], list(ends), "packed")
    except (RuntimeError, IndexError) as error:  # IndexError: a weight that has fewer dimensions
        raise ModelUnsupported(f"The weights of {checkpoint.path} do not fit its config.") from error


class _Graph(Parts):
    """The parts of one graph. Tensors are named as in `engines/encoder.py`; D is the width of the model."""

    def __init__(self, about: Encoder, weights: Safetensors) -> None:
        super().__init__(weights, heads=about.heads, epsilon=about.epsilon)
        self._about = about
        self._activation = ACTIVATIONS[about.activation]

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        """Returns the logits (N, labels)."""
        hidden = self._embed(ids, positions)
        *lower, last = self._about.layers
        if lower:
            places = _places(segments)
            mask = self._mask(segments, places, segments, places)
        for layer in lower:
            hidden = self._finish(layer, self._attend(layer, hidden, hidden, mask), hidden)
        hidden = self._of_first(last, hidden, segments, first)
        dense, out = self._about.head
        return self.linear(ACTIVATIONS[self._about.head_activation](self.linear(hidden, dense)), out)

    def _embed(self, ids: Node, positions: Node) -> Node:
        prefix = f"{self._about.base}.embeddings."
        table = self._weights[f"{prefix}position_embeddings.weight"][self._about.skipped :]
        if self._about.token_types:
            table = table + self._weights[f"{prefix}token_type_embeddings.weight"][0]
        words = op.gather(self.constant(f"{prefix}word_embeddings.weight"), ids, number(0))
        places = op.gather(op.constant(np.ascontiguousarray(table)), positions, number(0))
        hidden = self.norm(op.add(words, places), f"{prefix}LayerNorm")
        return self.linear(hidden, self._about.projection) if self._about.projection else hidden

    def _mask(self, segments: Node, places: Node, other_segments: Node, other_places: Node) -> Node:
        """(R or 1, Q) and (R or 1, K), twice, to (R, 1, Q, K), true if allowed, or to (R, H, Q, K), to be
        added. Places are those in a row.
        """
        same = same_text(segments, other_segments)
        if not self._about.relative_bias:
            return same
        most = self._weights.shape(f"{self._about.base}.embeddings.position_embeddings.weight")[0]
        table = self._weights[f"{self._about.relative_bias}.weight"][relative_buckets(most)]
        distance = op.subtract(op.unsqueeze(other_places, number(1)), op.unsqueeze(places, number(2)))
        index = op.add(op.clamp(distance, 1 - most, most - 1), op.constant(np.int32(most - 1)))
        bias = op.transpose(op.gather(op.constant(table), index, number(0)), numbers(0, 3, 1, 2))
        return op.select(same, bias, op.constant(NEVER))

    def _of_first(self, layer: str, hidden: Node, segments: Node, first: Node) -> Node:
        """(R, T, D), (R, T), and indices (N,) of R * T to (N, D), for first tokens only."""
        flat = [one := op.reshape(segments, numbers(1, -1), False), _places(one)]
        everything = op.reshape(hidden, numbers(1, -1, self._width), False)
        chosen = op.gather(everything, first, number(1))
        mask = self._mask(*(op.gather(one, first, number(1)) for one in flat), *flat)
        return op.squeeze(
            self._finish(layer, self._attend(layer, chosen, everything, mask), chosen), number(0)
        )

    def _attend(self, layer: str, query_hidden: Node, key_hidden: Node, mask: Node) -> Node:
        names, wide = self._about.names, self._width
        query = self.by_head(self.linear(query_hidden, layer + names.query), wide)
        key, value = (
            self.by_head(self.linear(key_hidden, layer + one), wide) for one in (names.key, names.value)
        )
        return self.attend(query, key, value, mask)

    def _finish(self, layer: str, context: Node, hidden: Node) -> Node:
        names = self._about.names
        hidden = self.norm(
            op.add(self.linear(context, layer + names.output), hidden), layer + names.attention_norm
        )
        inner = self._activation(self.linear(hidden, layer + names.inner))
        return self.norm(op.add(self.linear(inner, layer + names.outer), hidden), layer + names.output_norm)

    @property
    def _width(self) -> int:
        return width(self._about, self._weights)


def _places(segments: Node) -> Node:
    """(R, T) to (1, T), the numbers from 0."""
    length = op.gather(op.shape_of(segments), number(1), number(0))
    return op.unsqueeze(op.range(number(0), length, number(1), "i32"), number(0))
