"""Converts a checkpoint to an OpenVINO graph at build time. Needs torch, transformers and, for int8, nncf."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
import torch

from model_store.classifier import Layout, Tokens, Weights
from model_store.engines.encoder import packed_encoder
from model_store.engines.openvino_ir import MODEL
from model_store.engines.pytorch import PaddedModel, arrays, parameters, read_model
from model_store.rows import arrange, share_out

_INPUTS = ("ids", "positions", "segments", "first")


def convert(
    checkpoint: Path, out: Path, *, rows: bool, weights: Weights, calibration: Sequence[Tokens]
) -> int:
    """Write model.xml and model.bin to `out`; return the number of parameters.

    A few `calibration` texts are the example for tracing, and int8 weights are quantised on all of them.
    Float weights are stored in f16 if that is lossless, so that one file can be used with every arithmetic.
    """
    model = read_model(checkpoint)
    module = packed_encoder(model) if rows else _padded(model)
    layout: Layout = "packed" if rows else "padded"
    example = tuple(map(torch.from_numpy, arrays(arrange(calibration[:4], layout))))
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns about branches on shapes, but every batch takes the same branches as the example.
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(module, example_input=example)
    for name, port in zip(_INPUTS, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    if weights == "int8":
        passes = share_out([len(tokens) for tokens in calibration], layout)
        samples = [arrange([calibration[index] for index in indices], layout) for indices in passes]
        graph = _quantised(graph, [arrays(rows) for rows in samples])
    halved = weights == "int8" or _fits_f16(module)
    openvino.save_model(graph, out / MODEL, compress_to_fp16=halved)
    return parameters(checkpoint)


def _fits_f16(module: torch.nn.Module) -> bool:
    """Whether f16 represents every weight exactly."""
    return all(torch.equal(one.half().to(one.dtype), one) for one in module.parameters())


def _padded(model: Any) -> PaddedModel:
    model.set_attn_implementation("eager")  # the mask code of the other implementations cannot be traced
    return PaddedModel(model)


def _quantised(graph: Any, samples: list[Any]) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        graph,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )
