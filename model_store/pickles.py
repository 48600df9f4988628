"""Converts pickle checkpoints to safetensors, in a separate process and with weights_only=True.

A pickle can run code when it is loaded. weights_only refuses everything except tensors; as a further
precaution, `python -m model_store.pickles DIR` runs in a process without access to secrets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from model_store.artefact import inside
from model_store.checkpoint import PICKLES, WEIGHTS
from model_store.errors import ModelUnsupported

_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS")


def convert_pickle(path: Path) -> None:
    """Write model.safetensors from the pickled weights in `path`. Raises ModelUnsupported."""
    command = [sys.executable, "-m", "model_store.pickles", str(path)]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=_environment(), stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the conversion process died"])[-1]
        raise ModelUnsupported(f"The pickle checkpoint in {path} cannot be converted: {reason}")


def _environment() -> dict[str, str]:
    """The variables that Python needs to find its packages, without keys and passwords."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _convert(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    single, index = (path / name for name in PICKLES)
    files = [single]
    if index.is_file():
        names = json.loads(index.read_text("utf-8"))["weight_map"].values()
        files = [inside(path, name) for name in sorted(set(names))]
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights |= torch.load(file, map_location="cpu", weights_only=True)
    # Tied weights share memory, which safetensors does not allow.
    separate = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(separate, path / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    _convert(Path(sys.argv[1]))
