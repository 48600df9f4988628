"""Converts a classifier of any architecture to an OpenVINO graph, by tracing it in torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import openvino
import torch

from model_store.engines.pytorch import PaddedModel, read_model
from model_store.errors import ModelUnsupported, shown
from model_store.rows import Rows

_INPUTS = ("ids", "positions", "segments", "first")


def padded_graph(checkpoint: Path, example: Rows) -> Any:
    """The graph of the model for one text per row; `example` is a batch to trace it with.

    Raises ModelUnsupported if OpenVINO has no counterpart of what the model does.
    """
    model = read_model(checkpoint)
    model.set_attn_implementation("eager")  # the mask code of the other implementations cannot be traced
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns about branches on shapes, but every batch takes the same branches as the example.
        warnings.simplefilter("ignore")
        inputs = tuple(map(torch.from_numpy, example.inputs))
        logs = logging.getLogger()
        level, filters = logs.level, [*logs.filters]
        try:
            graph = openvino.convert_model(PaddedModel(model), example_input=inputs)
        except Exception as error:  # it has separate errors for every step
            lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
            reason = shown(lines[-1] if lines else type(error).__name__)
            raise ModelUnsupported(
                f"OpenVINO cannot convert {checkpoint}, a {type(model).__name__} ({reason}): choose the "
                "engine torch (--engine torch, MILLRACE_ENGINE=torch)."
            ) from error
        finally:
            logs.setLevel(level)  # after an error, OpenVINO leaves its own
            logs.filters = filters
    for name, port in zip(_INPUTS, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    return graph
