"""Writes the OpenVINO graph of a checkpoint. Needs torch unless it is packable, and nncf for int8."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from model_store.checkpoint import Checkpoint
from model_store.classifier import Layout, Weights
from model_store.engines.graph import packed_graph
from model_store.engines.openvino_ir import MODEL
from model_store.rows import arrange, share_out
from model_store.tokens import Tokens
from model_store.weights import Safetensors


def convert(checkpoint: Checkpoint, out: Path, *, weights: Weights, calibration: Sequence[Tokens]) -> None:
    """Write model.xml and model.bin to `out`; int8 weights are quantised on the `calibration` texts.

    Float weights are stored in f16 if that is lossless, so that one file can be used with every arithmetic.
    """
    layout: Layout = "packed" if checkpoint.packable else "padded"
    laid_out = partial(arrange, layout=layout, most=checkpoint.max_tokens, unnumbered=checkpoint.unnumbered)
    if checkpoint.packable:
        graph = packed_graph(checkpoint, Safetensors(checkpoint.path))
    else:
        from model_store.engines.tracing import padded_graph

        graph = padded_graph(checkpoint.path, laid_out(calibration[:4]))
    halved = weights == "int8" or _fits_f16(graph)
    if weights == "int8":
        batches = share_out([len(tokens) for tokens in calibration], layout)
        samples = [laid_out([calibration[index] for index in indices]).inputs for indices in batches]
        graph = _quantised(graph, samples)
    openvino.save_model(graph, out / MODEL, compress_to_fp16=halved)


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
