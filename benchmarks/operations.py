"""How many operations a text takes, and how many the processor can do: a speed as a share of its peak.

The peak of a precision is what large products of matrices reach in it, measured in the same run. Operations
of a text are counted as an engine runs them, with the last layer for first tokens only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import report
from model_store.hardware import has_bf16
from model_store.prepare import locate

# Rows and columns of the products, and how long each precision is measured.
WIDE = 768
PEAK_S = 2.0
# Flags of processors that have instructions for products in int8.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The layers of a BERT-like encoder."""

    layers: int
    wide: int
    inner: int

    @classmethod
    def of(cls, model: str) -> Shape:
        """That of a folder, or of another model that `load` knows."""
        folder = locate(model, Path("~/.cache/millrace").expanduser())[1]
        config = json.loads((folder / "config.json").read_text())
        first = {"layers": ("n_layers", "num_hidden_layers"), "wide": ("dim", "hidden_size")}
        names = {**first, "inner": ("hidden_dim", "intermediate_size")}
        return cls(
            **{key: next(config[name] for name in known if name in config) for key, known in names.items()}
        )

    def operations(self, lengths: Sequence[int], *, whole: bool = False) -> int:
        """Of a batch of texts of these lengths; `whole`: the last layer computes all tokens, too."""
        wide, tokens, texts = self.wide, sum(lengths), len(lengths)
        every = 2 * (4 * wide * wide + 2 * wide * self.inner)
        layer = every * tokens + 4 * wide * sum(length * length for length in lengths)
        last = 2 * 2 * wide * wide * tokens + 2 * (2 * wide * wide + 2 * wide * self.inner) * texts
        return self.layers * layer if whole else (self.layers - 1) * layer + last + 4 * wide * tokens


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations per second of the processor, for each precision that it has instructions for."""

    per_s: dict[str, float]

    @classmethod
    def measure(cls) -> Peaks:
        """Takes two seconds for each precision, and prints what was measured."""
        one, other = torch.randn(WIDE, WIDE), torch.randn(WIDE, WIDE)
        halves = one.bfloat16(), other.bfloat16()
        bytes_ = one.to(torch.int8), other.to(torch.int8)
        products: dict[str, Callable[[], object]] = {"f32": lambda: one @ other}
        if has_bf16():
            products["bf16"] = lambda: halves[0] @ halves[1]
        if not INT8_FLAGS.isdisjoint(report.flags()):
            products["int8"] = lambda: torch._int_mm(*bytes_)
        found = {precision: _per_s(product) for precision, product in products.items()}
        shown = ", ".join(f"{name} {per_s / 1e9:.0f}" for name, per_s in found.items())
        print(f"{report.facts()['processor']}: peak of {shown} GFLOP/s", flush=True)
        return cls(found)

    def share(self, precision: str, operations_per_s: float) -> float:
        """The share of the peak of a precision, or of f32 if the processor has no instructions for it."""
        return operations_per_s / self.per_s.get(precision, self.per_s["f32"])


def _per_s(product: Callable[[], object]) -> float:
    """Of the fastest of the products of two seconds."""
    product()
    spent, ends = [], time.perf_counter() + PEAK_S
    while (began := time.perf_counter()) < ends:
        product()
        spent.append(time.perf_counter() - began)
    return 2.0 * WIDE**3 / min(spent)
