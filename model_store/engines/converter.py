"""Writes the OpenVINO graph of a checkpoint. Needs torch unless it is packable, and nncf for int8."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from model_store.checkpoint import Checkpoint
from model_store.classifier import Layout, Weights
from model_store.engines.graph import packed_graph
from model_store.engines.openvino_ir import MODEL
from model_store.inputs import Inputs
from model_store.rows import Rows, arrange, share_out, shared
from model_store.tokens import Tokens
from model_store.weights import Safetensors


def convert(
    checkpoint: Checkpoint, out: Path, inputs: Inputs, *, weights: Weights, calibration: Sequence[Tokens]
) -> None:
    """Write model.xml and model.bin to `out`; int8 weights are quantised on the `calibration` texts.

    Float weights are stored in f16 if that is lossless, so that one file can be used with every arithmetic.
    """
    layout: Layout = "packed" if checkpoint.packable else "padded"
    laid_out = partial(arrange, layout=layout, most=checkpoint.max_tokens, inputs=inputs)
    if checkpoint.packable:
        graph = packed_graph(checkpoint, Safetensors(checkpoint.path))
    else:
        from model_store.engines.tracing import padded_graph

        graph = padded_graph(
            checkpoint.path,
            laid_out(_example(calibration, inputs)),
            token_types=inputs.token_types is not None,
        )
    halved = weights == "int8" or _fits_f16(graph)
    if weights == "int8":
        graph = _quantised(graph, [rows.inputs for rows in _samples(calibration, layout, inputs, laid_out)])
    openvino.save_model(graph, out / MODEL, compress_to_fp16=halved)


def _example(calibration: Sequence[Tokens], inputs: Inputs) -> Sequence[Tokens]:
    """A batch as they come when the model is served. All of them take the same branches of its code."""
    if inputs.sharing == "any":
        return calibration[:4]
    longest = max(calibration[:4], key=len)
    return [longest] if inputs.sharing == "none" else [longest, longest]


def _samples(
    calibration: Sequence[Tokens], layout: Layout, inputs: Inputs, laid_out: Callable[..., Rows]
) -> list[Rows]:
    lengths = [len(tokens) for tokens in calibration]
    batches = [[calibration[index] for index in indices] for indices in share_out(lengths, layout)]
    groups = (
        [[one[at] for at in group] for group in shared([*map(len, one)], inputs.sharing)] for one in batches
    )
    return [laid_out(group) for group in chain.from_iterable(groups)]


def _fits_f16(graph: Any) -> bool:
    """Whether f16 represents every weight exactly. Single numbers, such as a mask's minimum, do not count."""
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(one.data.astype(np.float16).astype(np.float32), one.data)
            for one in constants
            if one.get_element_type() == openvino.Type.f32 and one.data.size > 1
        )


def _quantised(graph: Any, samples: list[Any]) -> Any:
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level also changes handlers of others
    return nncf.quantize(
        graph,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )
