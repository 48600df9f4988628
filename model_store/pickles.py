"""Converts pickle checkpoints to safetensors, in a separate process and with weights_only=True.

A pickle can run code when it is loaded. weights_only refuses everything except tensors; as a further
precaution, `python -m model_store.pickles DIR FILE` runs in a process without access to secrets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from model_store.checkpoint import PICKLES, WEIGHTS, shards
from model_store.errors import ModelError, ModelUnsupported

if TYPE_CHECKING:
    from torch import Tensor

_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS")


def convert_pickle(path: Path) -> None:
    """Write model.safetensors from the pickled weights in `path`, atomically. Raises ModelError."""
    try:
        with TemporaryDirectory(prefix=".converting-", dir=path) as scratch:
            made = Path(scratch) / WEIGHTS
            _run(path, made)
            made.chmod(0o644)  # safetensors lets only its owner read it
            made.replace(path / WEIGHTS)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from error


def _run(path: Path, to: Path) -> None:
    command = [sys.executable, "-m", "model_store.pickles", str(path), str(to)]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=_environment(), stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = _reason(done.returncode, done.stderr)
        raise ModelUnsupported(f"The pickle checkpoint in {path} cannot be converted: {reason}")


def _reason(status: int, said: str) -> str:
    if status < 0:
        return f"the process was ended by signal {-status}, perhaps because memory ran out."
    return (said.strip().splitlines() or ["the process ended without a reason."])[-1]


def _environment() -> dict[str, str]:
    """The variables that Python needs to find its packages, without keys and passwords."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _convert(path: Path, to: Path) -> None:
    from safetensors.torch import save_file

    single, index = (path / name for name in PICKLES)
    weights: dict[str, Tensor] = {}
    for file in shards(index) if index.is_file() else [single]:
        weights |= _read(file)
    # Tied weights share memory, which safetensors does not allow.
    separate = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(separate, to, metadata={"format": "pt"})


def _read(file: Path) -> dict[str, Tensor]:
    import torch

    if not file.is_file():
        raise ModelUnsupported(f"{file.name} is missing.")
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # errors of many classes, for what torch refuses and for broken files
        raise ModelUnsupported(f"{file.name} is damaged, or has objects other than tensors.") from error
    if not isinstance(weights, dict) or not all(isinstance(one, torch.Tensor) for one in weights.values()):
        raise ModelUnsupported(f"{file.name} is not what torch.save(model.state_dict()) writes.")
    return weights


if __name__ == "__main__":
    try:
        _convert(*map(Path, sys.argv[1:]))
    except ModelError as error:
        sys.exit(str(error))
