"""Processes that need the engines: forked from a server that has imported them, so each starts at once.

No kernel has run in the server, so a child still reads limits such as ONEDNN_MAX_CPU_ISA from its
environment; tests/proof/test_levels.py checks that they take effect.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "model_store",
        "torch",
        "transformers.models.distilbert.modeling_distilbert",
        "openvino",
        "tests.proof.measure",
    ]
)
