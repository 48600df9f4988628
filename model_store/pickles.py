"""Pickle checkpoints to safetensors, in a process of their own and with weights_only=True.

Run as `python -m model_store.pickles DIR`: a pickle can run code when it is read, and although weights_only
refuses whatever is not a tensor, nothing of value lives in the process that tries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from model_store.checkpoint import PICKLES, WEIGHTS
from model_store.errors import ModelUnsupported


def convert_pickle(path: Path) -> None:
    """Write model.safetensors from the pickled weights in `path`. Raises ModelUnsupported."""
    command = [sys.executable, "-m", "model_store.pickles", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the converting process died"])[-1]
        raise ModelUnsupported(f"The pickle checkpoint in {path} cannot be converted: {reason}")


def _convert(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    single, index = (path / name for name in PICKLES)
    files = [single]
    if index.is_file():
        names = json.loads(index.read_text("utf-8"))["weight_map"].values()
        files = [path / name for name in sorted(set(names))]
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights |= torch.load(file, map_location="cpu", weights_only=True)
    # Tied weights share memory, which safetensors refuses.
    separate = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(separate, path / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    _convert(Path(sys.argv[1]))
