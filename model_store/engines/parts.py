"""Parts of OpenVINO graphs that several families of encoders share, built from a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as op

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


class Parts:
    """Layers of one graph, by the names of their weights. A shared weight becomes one constant."""

    def __init__(self, weights: Safetensors, *, heads: int, epsilon: float) -> None:
        self._weights = weights
        self._heads, self._epsilon = heads, epsilon
        self._constants: dict[str, Node] = {}

    def linear(self, x: Node, name: str) -> Node:
        """A dense layer, with a bias if the checkpoint has one."""
        product = op.matmul(x, self.constant(f"{name}.weight"), False, True)
        return op.add(product, self.constant(f"{name}.bias")) if f"{name}.bias" in self._weights else product

    def norm(self, x: Node, name: str) -> Node:
        """A layer norm, with a bias if the checkpoint has one."""
        normed = op.mvn(x, numbers(-1), True, self._epsilon, "inside_sqrt")
        scaled = op.multiply(normed, self.constant(f"{name}.weight"))
        return op.add(scaled, self.constant(f"{name}.bias")) if f"{name}.bias" in self._weights else scaled

    def by_head(self, hidden: Node, wide: int) -> Node:
        """(R, T, D) to (R, H, T, D / H)."""
        split = op.reshape(hidden, numbers(0, -1, self._heads, wide // self._heads), True)
        return op.transpose(split, numbers(0, 2, 1, 3))

    def attend(self, query: Node, key: Node, value: Node, mask: Node, scale: Node | None = None) -> Node:
        """(R, H, Q or K, D / H) and a mask that broadcasts to (R, H, Q, K), to (R, Q, D)."""
        context = op.scaled_dot_product_attention(query, key, value, mask, scale)
        return op.reshape(op.transpose(context, numbers(0, 2, 1, 3)), numbers(0, 0, -1), True)

    def constant(self, name: str) -> Node:
        if name not in self._constants:
            self._constants[name] = op.constant(self._weights[name])
        return self._constants[name]


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
