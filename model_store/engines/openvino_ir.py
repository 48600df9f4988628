"""The OpenVINO engine: runs a converted graph on the CPU. Needs neither torch nor transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from model_store.artefact import Manifest
from model_store.classifier import Arithmetic
from model_store.errors import NotComputed
from model_store.hardware import affinity
from model_store.rows import Floats, Rows

MODEL = "model.xml"
# Each shape of rows has separate kernels. OpenVINO keeps thousands of them, and oneDNN below it a thousand.
# oneDNN reads this when it compiles its first kernel.
_KERNELS = int(os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"))


class OpenVinoRunner:
    """A compiled graph with one stream of `threads` threads."""

    device = ""

    def __init__(self, path: Path, manifest: Manifest, *, threads: int, arithmetic: Arithmetic) -> None:
        self._path, self._manifest = path / MODEL, manifest
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": arithmetic,
            "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
            # Pinned threads are 10 % faster, but two workers that share the cores would pin their
            # threads to the same ones.
            "ENABLE_CPU_PINNING": threads >= affinity(),
        }
        self._request: Any = self._compiled()

    def run(self, rows: Rows) -> Floats:
        """Logits, in an array that was marked before the call: on one thread, the engine returns what it
        computed for the previous call, without an error, if it cannot compute this one.
        """
        texts = rows.first if self._manifest.rows else rows.ids
        logits = np.full((len(texts), len(self._manifest.labels)), np.nan, np.float32)
        if self._request is None:
            self._request = self._compiled()
        try:
            self._request.set_output_tensor(0, openvino.Tensor(logits, shared_memory=True))
            self._request.infer(list(rows.inputs), share_inputs=True)
            if np.isnan(logits).any():
                raise NotComputed(f"the engine computed no scores for rows of shape {rows.ids.shape}")
        except Exception:
            self._request = None  # otherwise the engine fails on all rows of the shape of the last good ones
            raise
        return logits

    def close(self) -> None:
        self._request = None

    def _compiled(self) -> Any:
        return openvino.Core().compile_model(self._path, "CPU", self._settings).create_infer_request()
