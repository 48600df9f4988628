"""Passes on an NVIDIA card: in few different shapes, each with a recording of its kernels.

The processor takes longer to start the hundreds of kernels of a small batch one by one than the card takes
to run them. A recording (a CUDA graph) starts them all at once, but has one shape; so rows are laid out with
some room at their ends.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from model_store.rows import FILLER, ROW, STEP

Shape = tuple[int, int, int]
# The inputs, the kernels and the logits.
Recording = tuple[Tensor, torch.cuda.CUDAGraph, Tensor]
# Larger batches take the card as long as their start takes the processor.
_RECORDED_TOKENS = 8192
# Recordings that are kept.
_RECORDINGS = 128
_TEXTS = 8


class CardPasses:
    """Runs `module`, which maps the arrays of `Rows` to logits, on the card; if `recorded`, in recordings.

    Not thread-safe.
    """

    def __init__(self, module: nn.Module, *, recorded: bool) -> None:
        self._module, self._most = module, _RECORDED_TOKENS if recorded else 0
        self._pool: tuple[int, int] | None = None
        self._recordings: OrderedDict[Shape, Recording] = OrderedDict()  # the last used one last

    def __call__(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """(R, T) three times and (N,), on the host, to logits (at least N, labels) on the card."""
        recorded = ids.numel() <= self._most
        (rows, length), texts = ids.shape, len(first)
        shape = roomy(rows, length, texts) if recorded else (rows, length, texts)
        given = laid_out(ids, positions, segments, first, shape)
        if not recorded:
            logits: Tensor = self._module(*parts(given.cuda(), shape))
            return logits
        recording = self._recordings.pop(shape, None) or self._record(shape)
        self._recordings[shape] = recording
        if len(self._recordings) > _RECORDINGS:
            self._recordings.popitem(last=False)
        inputs, graph, logits = recording
        inputs.copy_(given)
        graph.replay()
        return logits

    def _record(self, shape: Shape) -> Recording:
        rows, length, texts = shape
        inputs = torch.zeros(3 * rows * length + texts, dtype=torch.int32, device="cuda")
        self._module(*parts(inputs, shape))  # chooses kernels and loads them, which is not possible later
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()  # shared, as one runs at a time
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._module(*parts(inputs, shape))
        return inputs, graph, logits


def roomy(rows: int, length: int, texts: int) -> Shape:
    """A shape with at least as much room, out of few, since attention is compiled for each: 0.1 s on an H200.

    There are powers of two and the middle between each two of them; several rows have at least ROW tokens.
    """
    rows, length = _room(rows), STEP * _room(-(-length // STEP))
    length = length if rows == 1 else max(length, ROW)
    room = max(_TEXTS, rows * length // STEP)
    while room < texts:
        room *= 2
    return rows, length, room


def _room(number: int) -> int:
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if number <= power * 3 // 4 else power


def laid_out(ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor, shape: Shape) -> Tensor:
    """The inputs end to end, each with the room of `shape`, so that they reach the card in one copy."""
    rows, length, texts = shape
    flat = torch.zeros(3 * rows * length + texts, dtype=torch.int32)
    room = parts(flat, shape)
    room[2].fill_(FILLER)
    height, width = ids.shape
    for one, given in zip(room, (ids, positions, segments), strict=False):
        one[:height, :width] = given
    room[3][: len(first)] = first.div(width, rounding_mode="floor") * length + first % width
    return flat


def parts(flat: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs in what `laid_out` returned: ids, positions, segments and first."""
    rows, length, texts = shape
    ids, positions, segments = flat[: 3 * rows * length].view(3, rows, length)
    return ids, positions, segments, flat[len(flat) - texts :]
