"""The OpenVINO engine: runs a converted graph on the CPU. Needs neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino

from model_store.artefact import Manifest
from model_store.classifier import Arithmetic
from model_store.hardware import affinity
from model_store.rows import Floats, Rows

MODEL = "model.xml"


class OpenVinoRunner:
    """A compiled graph with one stream of `threads` threads."""

    def __init__(self, path: Path, _manifest: Manifest, *, threads: int, arithmetic: Arithmetic) -> None:
        core = openvino.Core()
        compiled = core.compile_model(
            path / MODEL,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": arithmetic,
                # Pinned threads are 10 % faster, but two workers that share the cores would pin their
                # threads to the same ones.
                "ENABLE_CPU_PINNING": threads >= affinity(),
            },
        )
        self._request = compiled.create_infer_request()

    def run(self, rows: Rows) -> Floats:
        logits: Floats = np.array(self._request.infer(list(rows.inputs), share_inputs=True)[0])
        return logits

    def close(self) -> None:
        del self._request
