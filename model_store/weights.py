"""Reads safetensors files with numpy alone: the tensors of a checkpoint by name, as f32 arrays.

A file is the size of its header (8 bytes, little-endian), the header (JSON: name, dtype, shape, offsets), and
the bytes of the tensors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.checkpoint import weight_files
from model_store.errors import ModelUnsupported

SUFFIX = ".safetensors"
# numpy has no bf16, whose bytes are the upper half of an f32.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_TRAINED = (".weight", ".bias")
_SIZE_BYTES = 8
_MAX_HEADER = 100_000_000
# Values that are looked at together.
_AT_ONCE = 1 << 20


class Safetensors:
    """The tensors of all safetensors files of a checkpoint. They stay on disk until they are asked for."""

    def __init__(self, checkpoint: Path) -> None:
        """Read the headers. Raises ModelUnsupported for a file in another format."""
        self._checkpoint = checkpoint
        self._places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in weight_files(checkpoint):
            if file.suffix == SUFFIX:
                start, header = _read_header(file)
                self._places |= {_present_name(name): (file, start, about) for name, about in header.items()}

    def require_finite(self) -> None:
        """Raises ModelUnsupported if a weight is not a number, or infinite: so would be its answers.

        Also if it is stored as whole numbers or in eight bits, as by libraries that quantize.
        """
        for name, (file, _, about) in self._places.items():
            if about["dtype"] not in _DTYPES and name.endswith(_TRAINED):
                raise _not_float(file, name, about["dtype"])
            if about["dtype"] in _DTYPES and not _is_finite(self._raw(name), about["dtype"], name):
                raise ModelUnsupported(
                    f"{file} has values in {name} that are not finite numbers, as after a training that "
                    "diverged; use an earlier checkpoint."
                )

    @property
    def parameters(self) -> int:
        """The number of values in all tensors."""
        return sum(math.prod(about["shape"]) for _, _, about in self._places.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises ModelUnsupported if it is missing."""
        _, _, about = self._find(name)
        return tuple(about["shape"])

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """A tensor in f32. Raises ModelUnsupported if it is missing, or if its bytes are not as described."""
        _, _, about = self._find(name)
        values = self._raw(name).reshape(about["shape"])
        if about["dtype"] == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)

    def _raw(self, name: str) -> NDArray[Any]:
        """The values of a tensor as they are stored, in one dimension. Raises ModelUnsupported."""
        file, start, about = self._find(name)
        if about["dtype"] not in _DTYPES:
            raise _not_float(file, name, about["dtype"])
        begin, end = about["data_offsets"]
        dtype = np.dtype(_DTYPES[about["dtype"]])
        if end - begin != math.prod(about["shape"]) * dtype.itemsize:
            raise ModelUnsupported(f"{file} cannot be read: its tensor {name} is {about}.")
        if begin == end:
            return np.zeros(0, dtype)
        try:
            return np.memmap(file, np.uint8, "r", offset=start + begin, shape=(end - begin,)).view(dtype)
        except (OSError, ValueError) as error:
            raise ModelUnsupported(f"{file} cannot be read: its tensor {name} is {about}.") from error

    def _find(self, name: str) -> tuple[Path, int, dict[str, Any]]:
        if name not in self._places:
            raise lacking(self._checkpoint, "some", name)
        return self._places[name]


def lacking(checkpoint: Path, count: str, name: str) -> ModelUnsupported:
    """The error for a checkpoint without the weight of this name."""
    return ModelUnsupported(
        f"{checkpoint} lacks {count} of the model's weights, such as {name}: "
        "save the whole classifier with transformers' save_pretrained."
    )


def _not_float(file: Path, name: str, dtype: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{file} stores {name} as {dtype}, and only {', '.join(_DTYPES)} can be read: save the model in "
        "float32."
    )


def _read_header(file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Returns where the bytes of the tensors begin, and the description of each tensor."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(_SIZE_BYTES), "little")
            if size > _MAX_HEADER:
                raise ValueError("its header is too large")
            header = json.loads(opened.read(size))
        if not isinstance(header, dict):
            raise TypeError("its header is not an object")
        header.pop("__metadata__", None)
        for name, about in header.items():
            _check_tensor(name, about, file.stat().st_size - _SIZE_BYTES - size)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelUnsupported(f"{file} is not a safetensors file: {error}.") from error
    return _SIZE_BYTES + size, header


def _check_tensor(name: str, about: dict[str, Any], size: int) -> None:
    """Raises ValueError unless the description of a tensor is one, within the `size` bytes of all of them."""
    begin, end = about["data_offsets"]
    numbers = [begin, end, *about["shape"]]
    if not all(type(one) is int and one >= 0 for one in numbers) or not isinstance(about["dtype"], str):
        raise ValueError(f"its tensor {name} is {about}")
    if not begin <= end <= size:
        raise ValueError(
            f"its tensor {name} ends at byte {end} of {size}, so the file is incomplete; copy it again"
        )


def _is_finite(values: NDArray[Any], dtype: str, name: str) -> bool:
    """Whether all values are numbers and, except in masks that are stored as buffers, none is infinite."""
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        if dtype == "BF16":
            part = (part.astype(np.uint32) << 16).view(np.float32)
        wrong = ~np.isfinite(part) if name.endswith(_TRAINED) else np.isnan(part)
        if wrong.any():
            return False
    return True


def _present_name(name: str) -> str:
    """Old checkpoints of BERT name the tensors of layer norms as TensorFlow did."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
