"""The OpenVINO engine: runs a converted graph on the processor. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino

from model_store.artefact import Manifest
from model_store.rows import Floats, Rows

MODEL = "model.xml"
_HINTS = {"f32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoRunner:
    """A compiled graph with one stream of `threads` threads."""

    def __init__(self, path: Path, manifest: Manifest, *, threads: int) -> None:
        core = openvino.Core()
        compiled = core.compile_model(
            path / MODEL,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": _HINTS[manifest.precision],
            },
        )
        self._request = compiled.create_infer_request()

    def run(self, passes: Sequence[Rows]) -> list[Floats]:
        """Logits of each pass, of shape (at least its texts, labels)."""
        return [self._one(rows) for rows in passes]

    def close(self) -> None:
        """Free the compiled graph."""
        del self._request

    def _one(self, rows: Rows) -> Floats:
        inputs = [rows.ids, rows.positions, rows.segments, rows.first]
        logits: Floats = np.array(self._request.infer(inputs, share_inputs=True)[0])
        return logits
