"""Builds the OpenVINO graph of a BERT-like classifier from its weights, without torch.

The graph computes what `engines/encoder.py` computes in torch: packed rows in which a token attends only to
tokens with the same segment number, and a last layer of first tokens only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as op

from model_store.checkpoint import Checkpoint
from model_store.errors import ModelUnsupported
from model_store.weights import Safetensors

# A node or an output of the graph; OpenVINO's Python package has no types.
Node = Any

ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "gelu": lambda x: op.gelu(x, "erf"),
    "gelu_new": lambda x: op.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: op.gelu(x, "tanh"),
    "relu": op.relu,
}


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls the parts of a layer, as prefixes of `weight` and `bias`."""

    layer: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    inner: str
    outer: str
    output_norm: str


_DISTILBERT = Names(
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    output_norm="output_layer_norm",
)
_BERT = Names(
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    output_norm="output.LayerNorm",
)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A family's parts and sizes. `skipped` rows of the table of positions come before the first position."""

    base: str
    names: Names
    layers: int
    heads: int
    activation: str
    epsilon: float
    head: tuple[str, str]
    head_activation: Callable[[Node], Node]
    token_types: bool
    skipped: int = 0


def packed_graph(checkpoint: Checkpoint, weights: Safetensors) -> openvino.Model:
    """The graph of a packable checkpoint in f32: ids, positions, segments (R, T) and first (N,) to logits.

    Raises ModelUnsupported if weights are missing, or if there is not one output for each label.
    """
    about = _encoder(checkpoint)
    _check_sizes(checkpoint, about, weights)
    try:
        logits, inputs = _Graph(about, weights).build()
        return openvino.Model([logits], inputs, "packed")
    except RuntimeError as error:
        raise ModelUnsupported(f"The weights of {checkpoint.path} do not fit its config.") from error


def _check_sizes(checkpoint: Checkpoint, about: Encoder, weights: Safetensors) -> None:
    """Raises ModelUnsupported for sizes with which the graph would compute something else."""
    tables = f"{about.base}.embeddings."
    width = weights.shape(f"{tables}LayerNorm.weight")[0]
    if width % about.heads:
        raise ModelUnsupported(
            f"{checkpoint.path} has a width of {width}, which {about.heads} heads do not divide."
        )
    outputs = f"{about.head[1]}.bias"
    for name, rows in (
        (f"{tables}word_embeddings.weight", checkpoint.vocabulary or 0),
        (f"{tables}position_embeddings.weight", checkpoint.max_tokens + about.skipped),
        (outputs, len(checkpoint.labels)),
    ):
        found = weights.shape(name)[0]
        if found < rows or (name == outputs and found > rows):
            raise ModelUnsupported(
                f"{checkpoint.path} needs {rows} rows of {name} according to its config, but has {found}."
            )


def _encoder(checkpoint: Checkpoint) -> Encoder:
    """The sizes in a checkpoint's config; what it leaves out has the defaults of transformers."""
    config = checkpoint.config
    if checkpoint.architecture.startswith("DistilBert"):
        return Encoder(
            base="distilbert",
            names=_DISTILBERT,
            layers=int(config.get("n_layers", 6)),
            heads=int(config.get("n_heads", 12)),
            activation=str(config.get("activation", "gelu")),
            epsilon=1e-12,
            head=("pre_classifier", "classifier"),
            head_activation=op.relu,
            token_types=False,
        )
    bert = checkpoint.architecture.startswith("Bert")
    return Encoder(
        base="bert" if bert else "roberta",
        names=_BERT,
        layers=int(config.get("num_hidden_layers", 12)),
        heads=int(config.get("num_attention_heads", 12)),
        activation=str(config.get("hidden_act", "gelu")),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        head=("bert.pooler.dense", "classifier") if bert else ("classifier.dense", "classifier.out_proj"),
        head_activation=op.tanh,
        token_types=True,
        skipped=0 if bert else int(config.get("pad_token_id", 1)) + 1,
    )


class _Graph:
    """The parts of one graph. Tensors are named as in `engines/encoder.py`; D is the width of the model."""

    def __init__(self, about: Encoder, weights: Safetensors) -> None:
        self._about = about
        self._weights = weights
        self._activation = ACTIVATIONS[about.activation]

    def build(self) -> tuple[Node, list[Node]]:
        """Returns the logits (N, labels) and the inputs."""
        ids, positions, segments = (_input(name, 2) for name in ("ids", "positions", "segments"))
        first = _input("first", 1)
        hidden = self._embed(ids, positions)
        mask = op.unsqueeze(
            op.equal(op.unsqueeze(segments, _number(2)), op.unsqueeze(segments, _number(1))), _number(1)
        )
        *lower, last = (
            f"{self._about.base}.{self._about.names.layer}.{number}." for number in range(self._about.layers)
        )
        for layer in lower:
            hidden = self._finish(layer, self._attend(layer, hidden, hidden, mask), hidden)
        hidden = self._of_first(last, hidden, segments, first)
        dense, out = self._about.head
        logits = self._linear(self._about.head_activation(self._linear(hidden, dense)), out)
        return logits, [ids, positions, segments, first]

    def _embed(self, ids: Node, positions: Node) -> Node:
        prefix = f"{self._about.base}.embeddings."
        table = self._weights[f"{prefix}position_embeddings.weight"][self._about.skipped :]
        if self._about.token_types:
            table = table + self._weights[f"{prefix}token_type_embeddings.weight"][0]
        words = op.gather(self._constant(f"{prefix}word_embeddings.weight"), ids, _number(0))
        places = op.gather(op.constant(np.ascontiguousarray(table)), positions, _number(0))
        return self._norm(op.add(words, places), f"{prefix}LayerNorm")

    def _of_first(self, layer: str, hidden: Node, segments: Node, first: Node) -> Node:
        """(R, T, D), (R, T) and indices (N,) of R * T to (N, D), for first tokens only."""
        flat = op.reshape(segments, _numbers(-1), False)
        everything = op.unsqueeze(op.reshape(hidden, _numbers(-1, self._width), False), _number(0))
        chosen = op.gather(everything, first, _number(1))
        own = op.unsqueeze(op.gather(flat, first, _number(0)), _number(1))
        mask = op.unsqueeze(op.equal(own, op.unsqueeze(flat, _number(0))), _numbers(0, 1))
        return op.squeeze(
            self._finish(layer, self._attend(layer, chosen, everything, mask), chosen), _number(0)
        )

    def _attend(self, layer: str, query_hidden: Node, key_hidden: Node, mask: Node) -> Node:
        names = self._about.names
        query = self._by_head(self._linear(query_hidden, layer + names.query))
        key, value = (
            self._by_head(self._linear(key_hidden, layer + one)) for one in (names.key, names.value)
        )
        context = op.transpose(op.scaled_dot_product_attention(query, key, value, mask), _numbers(0, 2, 1, 3))
        return op.reshape(context, _numbers(0, -1, self._width), True)

    def _finish(self, layer: str, context: Node, hidden: Node) -> Node:
        names = self._about.names
        hidden = self._norm(
            op.add(self._linear(context, layer + names.output), hidden), layer + names.attention_norm
        )
        inner = self._activation(self._linear(hidden, layer + names.inner))
        return self._norm(op.add(self._linear(inner, layer + names.outer), hidden), layer + names.output_norm)

    @property
    def _width(self) -> int:
        return self._weights.shape(f"{self._about.base}.embeddings.LayerNorm.weight")[0]

    def _by_head(self, hidden: Node) -> Node:
        heads = self._about.heads
        split = op.reshape(hidden, _numbers(0, -1, heads, self._width // heads), True)
        return op.transpose(split, _numbers(0, 2, 1, 3))

    def _linear(self, x: Node, name: str) -> Node:
        product = op.matmul(x, self._constant(f"{name}.weight"), False, True)
        return op.add(product, self._constant(f"{name}.bias"))

    def _norm(self, x: Node, name: str) -> Node:
        normed = op.mvn(x, _numbers(-1), True, self._about.epsilon, "inside_sqrt")
        return op.add(op.multiply(normed, self._constant(f"{name}.weight")), self._constant(f"{name}.bias"))

    def _constant(self, name: str) -> Node:
        return op.constant(self._weights[name])


def _input(name: str, rank: int) -> Node:
    parameter = op.parameter([-1] * rank, openvino.Type.i32, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _number(value: int) -> Node:
    return op.constant(np.int64(value))


def _numbers(*values: int) -> Node:
    numbers: NDArray[np.int64] = np.array(values, np.int64)
    return op.constant(numbers)
