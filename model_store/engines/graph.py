"""Builds the OpenVINO graph of an encoder from its weights, without torch.

The graph computes what `engines/encoder.py` computes in torch: packed rows in which a token attends only to
tokens with the same segment number, and in most families a last layer of first tokens only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as op

from model_store.checkpoint import Checkpoint
from model_store.engines import families
from model_store.errors import ModelUnsupported
from model_store.weights import Safetensors

# A node or an output of the graph; OpenVINO's Python package has no types.
Node = Any

# Added to the weights of attention where it is not allowed.
NEVER = np.float32(-1e30)

ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "gelu": lambda x: op.gelu(x, "erf"),
    "gelu_new": lambda x: op.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: op.gelu(x, "tanh"),
    "relu": op.relu,
    "tanh": op.tanh,
}
_WORDS = "deberta.embeddings.word_embeddings.weight"
_POSITIONS = "deberta.embeddings.position_embeddings.weight"
_TYPES = "deberta.embeddings.token_type_embeddings.weight"
_PROJECTION = "deberta.embeddings.embed_proj"
_RELATIVE = "deberta.encoder.rel_embeddings.weight"
_CONVOLUTION = "deberta.encoder.conv"
_EVERY_GLOBAL = 3
_THETA = {
    "full_attention": ("global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_theta", 10_000.0),
}


def packed_graph(checkpoint: Checkpoint, weights: Safetensors) -> openvino.Model:
    """The graph of a packable checkpoint in f32: ids, positions, segments (R, T) and first (N,) to logits.

    Raises ModelUnsupported if weights are missing, or if there is not one output for each label.
    """
    try:
        kinds = {"modernbert": ModernBertGraph, "deberta-v2": DebertaGraph}
        graph = kinds.get(checkpoint.model_type, BertGraph)(checkpoint, weights)
        ends = inputs()
        return openvino.Model([graph.build(*ends)], list(ends), "packed")
    except (RuntimeError, IndexError) as error:  # IndexError: a weight that has fewer dimensions
        raise ModelUnsupported(f"The weights of {checkpoint.path} do not fit its config.") from error


class Parts:
    """Layers of one graph, by the names of their weights. A shared weight becomes one constant."""

    names = families.BERT

    def __init__(self, weights: Safetensors, wide: int, heads: int, epsilon: float, activation: str) -> None:
        self._weights = weights
        self._wide, self._heads, self._epsilon = wide, heads, epsilon
        self._activation = ACTIVATIONS[activation]
        self._constants: dict[str, Node] = {}

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        """Returns the logits (N, labels)."""
        raise NotImplementedError

    def check_sizes(self, checkpoint: Checkpoint, outputs: str, needed: Mapping[str, int]) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else.

        `needed` has the least rows of tables, and `outputs` is a weight with a row for each label.
        """
        if self._wide % self._heads:
            raise ModelUnsupported(
                f"{checkpoint.path} has a width of {self._wide}, which {self._heads} heads do not divide."
            )
        for name, rows in {**needed, outputs: len(checkpoint.labels)}.items():
            found = self._weights.shape(name)[0]
            if found < rows or (name == outputs and found > rows):
                raise ModelUnsupported(
                    f"{checkpoint.path} needs {rows} rows of {name} according to its config, but has {found}."
                )

    def linear(self, x: Node, name: str) -> Node:
        """A dense layer, with a bias if the checkpoint has one."""
        product = op.matmul(x, self.constant(f"{name}.weight"), False, True)
        return op.add(product, self.constant(f"{name}.bias")) if f"{name}.bias" in self._weights else product

    def norm(self, x: Node, name: str) -> Node:
        """A layer norm, with a bias if the checkpoint has one."""
        normed = op.mvn(x, numbers(-1), True, self._epsilon, "inside_sqrt")
        scaled = op.multiply(normed, self.constant(f"{name}.weight"))
        return op.add(scaled, self.constant(f"{name}.bias")) if f"{name}.bias" in self._weights else scaled

    def by_head(self, hidden: Node) -> Node:
        """(R, T, D) to (R, H, T, D / H)."""
        split = op.reshape(hidden, numbers(0, -1, self._heads, self._wide // self._heads), True)
        return op.transpose(split, numbers(0, 2, 1, 3))

    def attend(self, projected: Iterable[Node], mask: Node, scale: Node | None = None) -> Node:
        """Thrice (R, H, Q or K, D / H) and a mask that broadcasts to (R, H, Q, K), to (R, Q, D)."""
        context = op.scaled_dot_product_attention(*projected, mask, scale)
        return op.reshape(op.transpose(context, numbers(0, 2, 1, 3)), numbers(0, 0, -1), True)

    def projected(self, layer: str, queries: Node, keys: Node) -> list[Node]:
        """Queries, keys and values of a layer, each by head."""
        names = self.names
        pairs = ((names.query, queries), (names.key, keys), (names.value, keys))
        return [self.by_head(self.linear(hidden, layer + name)) for name, hidden in pairs]

    def finish(self, layer: str, context: Node, hidden: Node) -> Node:
        """What a layer does after attention."""
        names = self.names
        attended = op.add(self.linear(context, layer + names.output), hidden)
        hidden = self.norm(attended, layer + names.attention_norm)
        inner = self._activation(self.linear(hidden, layer + names.inner))
        return self.norm(op.add(self.linear(inner, layer + names.outer), hidden), layer + names.output_norm)

    def constant(self, name: str) -> Node:
        if name not in self._constants:
            self._constants[name] = op.constant(self._weights[name])
        return self._constants[name]


class BertGraph(Parts):
    """The parts of one graph. Tensors are named as in `engines/encoder.py`; D is the width of the model."""

    def __init__(self, checkpoint: Checkpoint, weights: Safetensors) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else."""
        self._about: families.Encoder = families.describe(checkpoint.architecture, checkpoint.config)
        about = self._about
        wide = weights.shape(f"{about.layers[0]}{about.names.output_norm}.weight")[0]
        super().__init__(weights, wide, about.heads, about.epsilon, about.activation)
        self.names = about.names
        self.check_sizes(checkpoint, f"{about.head[1]}.bias", families.table_rows(about, checkpoint))

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        hidden = self._embed(ids, positions)
        *lower, last = self._about.layers
        if lower:
            places = _places(segments)
            mask = self._mask(segments, places, segments, places)
        for layer in lower:
            hidden = self.finish(layer, self.attend(self.projected(layer, hidden, hidden), mask), hidden)
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
        table = self._weights[f"{self._about.relative_bias}.weight"][families.relative_buckets(most)]
        distance = op.subtract(op.unsqueeze(other_places, number(1)), op.unsqueeze(places, number(2)))
        index = op.add(op.clamp(distance, 1 - most, most - 1), op.constant(np.int32(most - 1)))
        bias = op.transpose(op.gather(op.constant(table), index, number(0)), numbers(0, 3, 1, 2))
        return op.select(same, bias, op.constant(NEVER))

    def _of_first(self, layer: str, hidden: Node, segments: Node, first: Node) -> Node:
        """(R, T, D), (R, T), and indices (N,) of R * T to (N, D), for first tokens only."""
        flat = [one := op.reshape(segments, numbers(1, -1), False), _places(one)]
        everything = op.reshape(hidden, numbers(1, -1, self._wide), False)
        chosen = op.gather(everything, first, number(1))
        mask = self._mask(*(op.gather(one, first, number(1)) for one in flat), *flat)
        context = self.attend(self.projected(layer, chosen, everything), mask)
        return op.squeeze(self.finish(layer, context, chosen), number(0))


def _places(segments: Node) -> Node:
    """(R, T) to (1, T), the numbers from 0."""
    length = op.gather(op.shape_of(segments), number(1), number(0))
    return op.unsqueeze(op.range(number(0), length, number(1), "i32"), number(0))


class DebertaGraph(Parts):
    """The graph of one checkpoint. D is the width of the model."""

    names = families.DEBERTA

    def __init__(self, checkpoint: Checkpoint, weights: Safetensors) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else."""
        self._config = config = checkpoint.config
        heads = int(config.get("num_attention_heads", 24))
        wide = weights.shape("pooler.dense.weight")[0]
        epsilon = float(config.get("layer_norm_eps", 1e-7))
        super().__init__(weights, wide, heads, epsilon, config.get("hidden_act", "gelu"))
        self._about = families.read_disentangled(config)
        self._layers = int(config.get("num_hidden_layers", 24))
        self._most = checkpoint.max_tokens
        self._absolute = bool(config.get("position_biased_input", True))
        needed = {_WORDS: checkpoint.vocabulary or 0, _RELATIVE: 2 * self._about.span}
        absolute = {_POSITIONS: self._most} if self._absolute else {}
        self.check_sizes(checkpoint, "classifier.bias", needed | absolute)
        self._rows = op.constant(self._about.rows(self._most))
        self._scale = op.constant(np.float32(1 / math.sqrt(self._wide // heads * self._about.terms)))
        table = op.constant(weights[_RELATIVE][: 2 * self._about.span])
        self._table = self.norm(table, "deberta.encoder.LayerNorm") if self._about.normed else table

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
        embedded = hidden = self._embed(ids, positions)
        same = same_text(segments, segments)
        length = op.gather(op.shape_of(ids), number(1), number(0))
        farthest = op.subtract(length, number(1))
        falling = self._places(op.range(farthest, op.negative(length), number(-1), "i64"))
        rising = self._places(op.range(op.negative(farthest), length, number(1), "i64"))
        *lower, last = (f"deberta.encoder.layer.{at}." for at in range(self._layers))
        for at, layer in enumerate(lower):
            query, key, value = self.projected(layer, hidden, hidden)
            bias = op.constant(np.float32(0))
            if self._about.from_content:
                bias = op.add(bias, self._by_place(query, self._positions(layer, "key", falling), length))
            if self._about.from_position:
                turned = self._by_place(key, self._positions(layer, "query", rising), length)
                bias = op.add(bias, op.transpose(turned, numbers(0, 1, 3, 2)))
            mask = op.select(same, bias, op.constant(NEVER))
            hidden = self.finish(layer, self.attend([query, key, value], mask, self._scale), hidden)
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
        query, key, value = self.projected(layer, chosen, everything)
        bias = op.constant(np.float32(0))
        if self._about.from_position:
            of_key = op.multiply(key, self._positions(layer, "query", places))
            bias = op.multiply(op.unsqueeze(op.reduce_sum(of_key, number(3)), number(2)), self._scale)
        if self._about.from_content:
            key = op.add(key, self._positions(layer, "key", places))
        mask = op.select(same_text(op.gather(own, first, number(1)), own), bias, op.constant(NEVER))
        context = self.attend([query, key, value], mask, self._scale)
        return op.squeeze(self.finish(layer, context, chosen), number(0))

    def _places(self, distances: Node) -> Node:
        """The row of the table for each distance. A text has none beyond the model's limit."""
        near = op.clamp(distances, 1 - self._most, self._most - 1)
        return op.gather(self._rows, op.add(near, number(self._most - 1)), number(0))

    def _positions(self, layer: str, kind: str, places: Node) -> Node:
        """The projected relative positions of `places`, (P,), as keys or queries: (1, H, P, D / H)."""
        name = f"{kind}_proj" if self._about.shared else f"pos_{kind}_proj"
        table = self.linear(self._table, f"{layer}attention.self.{name}")
        return self.by_head(op.unsqueeze(op.gather(table, places, number(0)), number(0)))

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


class ModernBertGraph(Parts):
    """The graph of one checkpoint. D is the width of the model."""

    def __init__(self, checkpoint: Checkpoint, weights: Safetensors) -> None:
        """Raises ModelUnsupported for sizes with which the graph would compute something else."""
        config = checkpoint.config
        heads = int(config.get("num_attention_heads", 12))
        wide = weights.shape("model.final_norm.weight")[0]
        epsilon = float(config.get("norm_eps", 1e-5))
        super().__init__(weights, wide, heads, epsilon, config.get("hidden_activation", "gelu"))
        needed = {"model.embeddings.tok_embeddings.weight": checkpoint.vocabulary or 0}
        self.check_sizes(checkpoint, "classifier.bias", needed)
        self._kinds = layer_kinds(config)
        self._window = int(config.get("local_attention", 128)) // 2
        self._head_activation = ACTIVATIONS[config.get("classifier_activation", "gelu")]
        self._mean = config.get("classifier_pooling", "cls") == "mean"
        self._rotations = {
            kind: self._rotation(theta(config, kind), checkpoint.max_tokens) for kind in set(self._kinds)
        }

    def build(self, ids: Node, positions: Node, segments: Node, first: Node) -> Node:
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
        query, key, value = map(self.by_head, parts)
        query, key = (_rotated(one, *turn) for one in (query, key))
        return self.linear(self.attend([query, key, value], mask), f"{name}Wo")

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


def inputs() -> tuple[Node, Node, Node, Node]:
    """The inputs of a graph: ids, positions, segments (R, T) and first (N,)."""
    ids, positions, segments = (_input(name, 2) for name in ("ids", "positions", "segments"))
    return ids, positions, segments, _input("first", 1)


def same_text(segments: Node, others: Node) -> Node:
    """(R, Q) and (R, K) to (R, 1, Q, K), true where both tokens are of the same text."""
    same = op.equal(op.unsqueeze(segments, number(2)), op.unsqueeze(others, number(1)))
    return op.unsqueeze(same, number(1))


def _input(name: str, rank: int) -> Node:
    parameter = op.parameter([-1] * rank, openvino.Type.i32, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def number(value: int) -> Node:
    return op.constant(np.int64(value))


def numbers(*values: int) -> Node:
    array: NDArray[np.int64] = np.array(values, np.int64)
    return op.constant(array)
