"""Converts a classifier of any architecture to an OpenVINO graph, by tracing it in torch."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import openvino
import torch

from model_store.engines.pytorch import PaddedModel, read_model
from model_store.errors import NotConverted, shown
from model_store.rows import Rows

log = logging.getLogger(__name__)
_NAMED = re.compile(r"[\w.]*(?:Error|Exception): \S")
_INPUTS = ("ids", "positions", "segments", "first")


def _cause(error: Exception) -> str:
    """The last error that a message of OpenVINO names, which has a traceback in it and advice after it."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")] or [
        type(error).__name__
    ]
    named = [line for line in lines if _NAMED.match(line)]
    return shown((named or lines)[-1])


def padded_graph(checkpoint: Path, example: Rows, *, token_types: bool) -> Any:
    """The graph of the model for one text per row; `example` is a batch to trace it with.

    Raises NotConverted if OpenVINO has no counterpart of what the model does.
    """
    model = read_model(checkpoint)
    with suppress(Exception):  # the mask code of the other implementations cannot be traced
        model.set_attn_implementation("eager")
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns about branches on shapes, but every batch takes the same branches as the example.
        warnings.simplefilter("ignore")
        inputs = tuple(map(torch.from_numpy, example.inputs))
        logs = logging.getLogger()
        level, filters = logs.level, [*logs.filters]
        try:
            graph = openvino.convert_model(PaddedModel(model, token_types=token_types), example_input=inputs)
        except Exception as error:  # it has separate errors for every step
            log.debug("OpenVINO cannot convert", exc_info=error, extra={"action": "model.raised"})
            raise NotConverted(
                f"OpenVINO cannot convert {checkpoint}, a {type(model).__name__} ({_cause(error)}); the "
                "engine torch may run it (--engine torch, MILLRACE_ENGINE=torch)."
            ) from error
        finally:
            logs.setLevel(level)  # after an error, OpenVINO leaves its own
            logs.filters = filters
    for name, port in zip(_INPUTS, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    return graph
